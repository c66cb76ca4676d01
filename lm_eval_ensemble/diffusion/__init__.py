"""The masked-diffusion infiller: loading, decoding, the length of the gap, likelihoods."""
