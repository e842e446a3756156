"""Networks of other libraries, wrapped to take images on 0..255 and to give logits.

Each module imports its library only when it is used: `crfrnn.integrations.torchvision`,
`crfrnn.integrations.transformers`.
"""
