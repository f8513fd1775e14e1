import unittest

from label_studio_ml.api import init_app
from model import TicketRouter

LABEL_CONFIG = '''
<View>
  <Text name="text" value="$ticket"/>
  <Choices name="queue" toName="text"><Choice value="Billing"/><Choice value="Support"/></Choices>
</View>
'''


class RouterTest(unittest.TestCase):
    def setUp(self):
        self.client = init_app(model_class=TicketRouter).test_client()

    def test_health(self):
        response = self.client.get('/health')
        self.assertEqual(response.status_code, 200)
        self.assertEqual(response.json['status'], 'UP')

    def test_predict(self):
        response = self.client.post('/predict', json={
            'tasks': [{'id': 1, 'data': {'ticket': 'ann: my invoice'}}],
            'project': '5.1600000000',
            'label_config': LABEL_CONFIG,
            'model_version': None,
            'force_reload': False,
            'try_fetch': True,
            'params': {'login': None, 'password': None, 'context': None},
        })
        self.assertEqual(response.status_code, 200)
        prediction = response.get_json()['results'][0]
        self.assertEqual(prediction['result'][0]['value'], {'choices': ['Billing']})
        self.assertEqual(prediction['score'], 0.1)

    def test_fit(self):
        import tempfile
        router = TicketRouter(label_config=LABEL_CONFIG)
        task = {
            'data': {'ticket': 'ann: it broke'},
            'annotations': [{'result': [{'value': {'choices': ['Support']}}], 'was_cancelled': False}],
        }
        with tempfile.TemporaryDirectory() as workdir:
            trained = router.fit([task], workdir=workdir)
            self.assertTrue(trained['model_file'].startswith(workdir))
