"""The processes of stdio servers: started, heard, and ended with all that they started."""
