"""
Tests of the backend's API, run with `pytest test_api.py` in this directory.
"""

import json

import pytest
from model import KeywordClassifier

LABEL_CONFIG = '''
<View>
  <Text name="text" value="$text"/>
  <Choices name="mood" toName="text">
    <Choice value="happy"/>
    <Choice value="sad"/>
  </Choices>
</View>
'''


@pytest.fixture
def client():
    from label_studio_ml.api import init_app
    app = init_app(model_class=KeywordClassifier)
    app.config['TESTING'] = True
    with app.test_client() as client:
        yield client


def test_health(client):
    response = client.get('/health')
    assert response.status_code == 200
    assert response.get_json()['status'] == 'UP'


def test_predict(client):
    request = {
        'tasks': [{'id': 1, 'data': {'text': 'I am happy'}}, {'id': 2, 'data': {'text': 'So sad'}}],
        'label_config': LABEL_CONFIG,
        'project': '1.1700000000',
    }
    response = client.post('/predict', data=json.dumps(request), content_type='application/json')
    assert response.status_code == 200
    results = json.loads(response.data)['results']
    assert [r['result'][0]['value']['choices'] for r in results] == [['happy'], ['sad']]
    assert [r['model_version'] for r in results] == ['0.0.1', '0.0.1']


def test_setup(client):
    request = {'project': '1.1700000000', 'schema': LABEL_CONFIG, 'hostname': 'http://localhost:8080', 'access_token': 'x'}
    response = client.post('/setup', json=request)
    assert response.status_code == 200
    assert response.json['model_version'] == '0.0.1'
