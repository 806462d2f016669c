"""One run as this machine sees it: started, watched, recorded, ended with an outcome."""
