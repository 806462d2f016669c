"""The warm-pool server: runs over HTTP, their events as a stream, and a page. Needs the extra `server`."""
