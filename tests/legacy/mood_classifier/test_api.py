"""
pip install -r requirements-test.txt, then run pytest in this directory
"""

import json
from unittest import mock

import pytest
from label_studio_ml.utils import compare_nested_structures
from model import MoodClassifier

LABEL_CONFIG = '''
<View>
  <Text name="text" value="$text"/>
  <Choices name="mood" toName="text" choice="single">
    <Choice value="Positive"/>
    <Choice value="Negative"/>
    <Choice value="Neutral"/>
  </Choices>
</View>
'''


@pytest.fixture
def client():
    from _wsgi import init_app
    app = init_app(model_class=MoodClassifier)
    app.config['TESTING'] = True
    with app.test_client() as client:
        yield client


def expected_result(choice):
    return {
        'model_version': 'MoodClassifier-v0.0.1',
        'score': 0.75,
        'result': [{
            'from_name': 'mood',
            'to_name': 'text',
            'type': 'choices',
            'value': {'choices': [choice]},
        }],
    }


def test_predict(client):
    request = {
        'tasks': [{'data': {'text': 'I love it'}}, {'data': {'text': 'It is awful'}}],
        'label_config': LABEL_CONFIG,
    }
    response = client.post('/predict', data=json.dumps(request), content_type='application/json')
    assert response.status_code == 200
    response = json.loads(response.data)
    assert response == {'results': [expected_result('Positive'), expected_result('Negative')]}
    compare_nested_structures(response['results'][0], expected_result('Positive'))


def test_predict_with_a_full_task(client):
    response = client.post('/predict', json={
        'tasks': [{
            'id': 1428, 'data': {'text': 'great!'}, 'meta': {}, 'created_at': '2024-03-20T20:50:22.955810Z',
            'inner_id': 18, 'project': 6, 'annotations': [], 'predictions': [],
        }],
        'project': '6.1710967805',
        'label_config': LABEL_CONFIG,
        'params': {'login': None, 'password': None, 'context': None},
    })
    assert response.status_code == 200
    assert response.json == {'results': [expected_result('Positive')]}


def test_setup_then_wrong_key_in_task_data(client):
    data = {'schema': LABEL_CONFIG, 'project': '42'}
    response = client.post('/setup', data=json.dumps(data), content_type='application/json')
    assert response.status_code == 200, 'Error while setup: ' + str(response.data)
    assert response.get_json()['model_version'] == 'MoodClassifier-v0.0.1'

    data = {'tasks': [{'data': {'wrong_key': 'x'}}], 'label_config': LABEL_CONFIG}
    response = client.post('/predict', data=json.dumps(data), content_type='application/json')
    assert response.status_code == 500
    assert b'no text in task' in response.data


def test_predict_with_another_score(client):
    with mock.patch.object(MoodClassifier, 'SCORE', new=0.5):
        response = client.post('/predict', json={
            'tasks': [{'data': {'text': 'hate'}}], 'label_config': LABEL_CONFIG})
    assert response.json['results'][0]['score'] == pytest.approx(0.5)


def test_basic_auth():
    from _wsgi import init_app
    app = init_app(model_class=MoodClassifier, basic_auth_user='ann', basic_auth_pass='secret')
    client = app.test_client()
    response = client.post('/setup', json={'schema': LABEL_CONFIG, 'project': '1'})
    assert response.status_code == 401
    assert response.headers['WWW-Authenticate'].startswith('Basic realm=')
    response = client.post('/setup', json={'schema': LABEL_CONFIG, 'project': '1'}, auth=('ann', 'secret'))
    assert response.status_code == 200


def test_model_alone():
    model = MoodClassifier(project_id='1', label_config=LABEL_CONFIG)
    response = model.predict([{'data': {'text': 'I love it'}}])
    assert response.predictions[0].result[0]['value']['choices'] == ['Positive']
    assert model.get('my_model_version') == 'words'
    assert str(model.model_version) == 'MoodClassifier-v0.0.1'
