from lsml_bento import create_service

svc = create_service("text_generation.model:GPT2TextGeneration", name="gpt2")
