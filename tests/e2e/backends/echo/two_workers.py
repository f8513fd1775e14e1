from lsml_bento import create_service

svc = create_service("model:Echo", workers=2, max_batch_size=8)
