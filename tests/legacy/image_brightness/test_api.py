import json
import os

import pytest
from model import Brightness
from PIL import Image

LABEL_CONFIG = '''
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image"><Label value="Bright"/></RectangleLabels>
</View>
'''


@pytest.fixture
def client():
    from _wsgi import init_app
    app = init_app(model_class=Brightness)
    app.config['TESTING'] = True
    with app.test_client() as client:
        yield client


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv('LABEL_STUDIO_URL', 'http://localhost:8080')
    monkeypatch.setenv('LABEL_STUDIO_API_KEY', 'key')
    monkeypatch.setenv('LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT', str(tmp_path))
    Image.new('RGB', (40, 30), 'white').save(os.path.join(tmp_path, 'white.png'))
    Image.new('RGB', (40, 30), 'black').save(os.path.join(tmp_path, 'black.png'))


def test_predict(images, client):
    request = {
        'tasks': [{'data': {'image': f'/data/local-files/?d={name}.png'}} for name in ('white', 'black')],
        'label_config': LABEL_CONFIG,
    }
    response = client.post('/predict', data=json.dumps(request), content_type='application/json')
    assert response.status_code == 200
    white, black = json.loads(response.data)['results']
    assert white['result'][0]['original_width'] == 40
    assert white['score'] == pytest.approx(1.0)
    assert white['model_version'] == '0.1.0'
    assert black['result'] == []
