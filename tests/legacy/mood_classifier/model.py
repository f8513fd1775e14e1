import logging
import os

from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.response import ModelResponse
from label_studio_ml.utils import InMemoryLRUDictCache, match_labels
from label_studio_sdk.objects import PredictionValue

logger = logging.getLogger(__name__)

CACHE = InMemoryLRUDictCache(100)
WORDS = {'love': 'Positive', 'great': 'Positive', 'awful': 'Negative', 'hate': 'Negative'}


class MoodClassifier(LabelStudioMLBase):
    """Looks for words with a mood; the prompt of an LLM would go here"""

    SCORE = float(os.getenv('MOOD_SCORE', 0.75))

    def __init__(self, project_id: str | None = None, **kwargs):
        super().__init__(project_id, **kwargs)
        self.calls = 0

    def setup(self):
        self.set('model_version', f'{self.__class__.__name__}-v0.0.1')
        if not self.has('my_model_version'):
            self.set('my_model_version', 'words')

    def _answer(self, text):
        answer = CACHE.get(text)
        if answer is None:
            answer = next((mood for word, mood in WORDS.items() if word in text.lower()), 'Neutral')
            CACHE.put(text, answer)
        return answer

    def predict(self, tasks: list[dict], context: dict | None = None, **kwargs) -> ModelResponse:
        self.calls += 1
        from_name, to_name, value = self.get_first_tag_occurence('Choices', 'Text')
        labels = list(self.label_interface.get_control(from_name).labels)
        predictions = []
        for task in tasks:
            if value not in task['data']:
                raise ValueError(f"no text in task {task.get('id')}")
            text = self.preload_task_data(task, task['data'][value])
            choice = match_labels(self._answer(text), labels)
            predictions.append(PredictionValue(
                result=[{'from_name': from_name, 'to_name': to_name, 'type': 'choices', 'value': {'choices': choice}}],
                score=self.SCORE,
                model_version=self.get('model_version'),
            ))
        logger.info(f"{self.get('my_model_version')}: {len(predictions)} predictions in project {self.project_id}")
        return ModelResponse(predictions=predictions)
