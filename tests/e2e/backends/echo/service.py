from lsml_bento import create_service

svc = create_service("model:Echo", max_batch_size=8)
