"""Keep bytes under keys, in a directory or on S3, and tables made of them."""
