"""Networks of other libraries, so that they take images on 0..255 and give logits.

Each module imports its library only when it is used: `crfrnn.integrations.torchvision`,
`crfrnn.integrations.transformers`.
"""
