"""The OpenAI API's messages: what calls are, what of them goes to an engine, and how errors are written."""
