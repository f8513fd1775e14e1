import json
import os

from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.utils import (
    DATA_UNDEFINED_NAME,
    get_choice,
    get_env,
    get_single_tag_keys,
    is_skipped,
)
from label_studio_tools.core.label_config import parse_config
from label_studio_tools.core.utils.io import get_data_dir  # noqa

HOSTNAME = get_env('HOSTNAME', 'http://localhost:8080')
MODEL_FILE = 'queues.json'


class TicketRouter(LabelStudioMLBase):
    """Remembers which queue each customer's tickets went to (label-studio-ml 1.0)"""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.from_name, self.to_name, self.value, self.labels = get_single_tag_keys(
            self.parsed_label_config, 'Choices', 'Text')
        assert parse_config(self.label_config).keys() == self.parsed_label_config.keys()
        if self.train_output:
            with open(self.train_output['model_file']) as f:
                self.queues = json.load(f)
        else:
            self.queues = {}

    def predict(self, tasks, **kwargs):
        predictions = []
        for task in tasks:
            text = task['data'].get(self.value) or task['data'].get(DATA_UNDEFINED_NAME)
            customer = text.split(':')[0]
            choice = self.queues.get(customer, self.labels[0])
            predictions.append({
                'result': [{
                    'from_name': self.from_name,
                    'to_name': self.to_name,
                    'type': 'choices',
                    'value': {'choices': [choice]},
                }],
                'score': 0.9 if customer in self.queues else 0.1,
            })
        return predictions

    def fit(self, completions, workdir=None, **kwargs):
        queues = {}
        for completion in completions:
            if is_skipped(completion):
                continue
            queues[completion['data'][self.value].split(':')[0]] = get_choice(completion)
        model_file = os.path.join(workdir, MODEL_FILE)
        with open(model_file, 'w') as f:
            json.dump(queues, f)
        return {'model_file': model_file}
