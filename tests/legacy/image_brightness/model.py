from label_studio_converter import brush
from label_studio_ml.model import LabelStudioMLBase, ModelResponse
from label_studio_ml.utils import get_image_size
from PIL import Image, ImageStat


class Brightness(LabelStudioMLBase):
    """One box around an image that is bright, none on a dark one"""

    def setup(self):
        self.set('model_version', '0.1.0')

    def predict(self, tasks, context=None, **kwargs):
        from_name, to_name, value = self.get_first_tag_occurence('RectangleLabels', 'Image')
        predictions = []
        for task in tasks:
            path = self.get_local_path(task['data'][value], task_id=task.get('id'))
            width, height = get_image_size(path)
            with Image.open(path) as image:
                brightness = ImageStat.Stat(image.convert('L')).mean[0] / 255
            result = []
            if brightness > 0.5:
                result.append({
                    'from_name': from_name, 'to_name': to_name, 'type': 'rectanglelabels',
                    'original_width': width, 'original_height': height, 'image_rotation': 0,
                    'value': {
                        'x': 0, 'y': 0, 'width': 100, 'height': 100, 'rotation': 0, 'rectanglelabels': ['Bright']},
                })
            predictions.append({'result': result, 'score': brightness, 'model_version': self.get('model_version')})
        return ModelResponse(predictions=predictions)


assert callable(brush.mask2rle)
