"""Collections of sounds, judged: how probable a model finds each, which are outliers, what is wrong with them."""
