all in one
