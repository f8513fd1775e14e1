from lsml_bento import create_service

svc = create_service("ner.backend:NER", name="pytorch-ner")
