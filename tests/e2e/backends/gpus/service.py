from lsml_bento import create_service

svc = create_service("model:Devices", workers=2, gpus=4)
