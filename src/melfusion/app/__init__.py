"""The page: a picture and a sentence in a browser, music out."""
