import logging
import os
from uuid import uuid4

from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.response import ModelResponse
from label_studio_sdk.label_interface.objects import PredictionValue

logger = logging.getLogger(__name__)


class KeywordClassifier(LabelStudioMLBase):
    """Chooses a class by the words of a text; new words come from annotations."""

    DEFAULT_SCORE = float(os.getenv('DEFAULT_SCORE', 0.8))

    def setup(self):
        """Configure any parameters of your model here
        """
        self.set("model_version", "0.0.1")

    def predict(self, tasks: list[dict], context: dict | None = None, **kwargs) -> ModelResponse:
        print(f'''\
        Run prediction on {len(tasks)} tasks
        Received context: {context}
        Project ID: {self.project_id}
        Label config: {self.label_config}
        Parsed JSON Label config: {self.parsed_label_config}
        Extra params: {self.extra_params}''')

        from_name, to_name, value = self.label_interface.get_first_tag_occurence('Choices', 'Text')
        choices = list(self.parsed_label_config[from_name]['labels'])
        label_map = self.build_label_map(from_name, choices)

        predictions = []
        for task in tasks:
            text = self.preload_task_data(task, task['data'][value])
            choice = next((c for c in choices if c.lower() in text.lower()), choices[-1])
            predictions.append(PredictionValue(
                result=[{
                    'id': str(uuid4())[:4],
                    'from_name': from_name,
                    'to_name': to_name,
                    'type': 'choices',
                    'value': {'choices': [label_map.get(choice, choice)]},
                    'score': self.DEFAULT_SCORE,
                }],
                score=self.DEFAULT_SCORE,
                model_version=self.get('model_version'),
            ))

        return ModelResponse(predictions=predictions, model_version=self.get('model_version'))

    def fit(self, event, data, **kwargs):
        """Called on each event of TRAIN_EVENTS"""
        old_data = self.get('my_data')
        old_model_version = self.get('model_version')
        print(f'Old data: {old_data}')
        print(f'Old model version: {old_model_version}')

        self.set('my_data', f'last event: {event}')
        self.set('model_version', '0.0.2')
        print(f'New data: {self.get("my_data")}')
        print(f'New model version: {self.get("model_version")}')
        print('fit() completed successfully.')
