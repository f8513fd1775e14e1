from lsml_bento import create_service

svc = create_service("examples.pytorch_ner.backend:NER", name="pytorch-ner")
