"""Many runs: what hosts did before, who is told, the fleet and the server."""
