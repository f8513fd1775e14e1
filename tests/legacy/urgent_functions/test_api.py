import json

LABEL_CONFIG = '''
<View>
  <Labels name="label" toName="text"><Label value="Urgent"/></Labels>
  <Text name="text" value="$text"/>
</View>
'''


def test_predict():
    from _wsgi import app
    request = {
        'tasks': [{'id': 1, 'data': {'text': 'Call me now!'}}, {'id': 2, 'data': {'text': 'Any time'}}],
        'label_config': LABEL_CONFIG,
        'project': '3.1700000000',
    }
    with app.test_client() as client:
        response = client.post('/predict', data=json.dumps(request), content_type='application/json')
        assert response.status_code == 200
        results = json.loads(response.data)['results']
    assert [region['value'] for region in results[0]['result']] == [
        {'start': 8, 'end': 12, 'text': 'now!', 'labels': ['Urgent']}]
    assert results[1]['result'] == []
