"""Language models: engines that run as a child process and speak the OpenAI API on a Unix socket."""
