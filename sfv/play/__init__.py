"""The playground: a person drives a world model in a browser, with and without memory."""
