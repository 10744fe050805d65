"""The command line `dabba`: parse, call, print."""
