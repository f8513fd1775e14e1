from lsml_bento import create_service

svc = create_service("model:Learner", name="learner")
