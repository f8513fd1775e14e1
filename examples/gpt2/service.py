from lsml_bento import create_service

svc = create_service("examples.gpt2.model:GPT2TextGeneration", name="gpt2")
