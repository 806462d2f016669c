"""HTTP as sources speak it: connections, requests, answers, and what a refusal means."""
