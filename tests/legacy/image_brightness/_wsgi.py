from label_studio_ml.api import init_app
from model import Brightness

app = init_app(model_class=Brightness)

if __name__ == '__main__':
    app.run()
