"""The music backbones: stock diffusers networks with a synapse in their cross-attention. One file each."""
