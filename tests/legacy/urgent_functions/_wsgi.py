import model
from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLBase

app = init_app(LabelStudioMLBase)

if __name__ == '__main__':
    app.run(host='0.0.0.0', port=9090, debug=True, use_reloader=False)
