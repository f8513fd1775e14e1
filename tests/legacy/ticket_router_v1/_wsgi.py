import os

from label_studio_ml.api import init_app
from model import TicketRouter

app = init_app(
    model_class=TicketRouter,
    model_dir=os.environ.get('MODEL_DIR', os.path.dirname(__file__)),
    redis_queue=os.environ.get('RQ_QUEUE_NAME', 'default'),
    redis_host=os.environ.get('REDIS_HOST', 'localhost'),
    redis_port=os.environ.get('REDIS_PORT', 6379),
)
