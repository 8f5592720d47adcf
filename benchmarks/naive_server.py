"""The server that one writes first: `python naive_server.py PORT MODEL_FILE`. `serving.py` starts it."""

import sys
from typing import Any

import keras
import numpy as np
import uvicorn
from fastapi import FastAPI

app = FastAPI()
model: Any = keras.saving.load_model(sys.argv[2], compile=False)


@app.post("/predict")
def predict(question: dict[str, Any]) -> list[list[float]]:
    """Return the probabilities of each image under `pixels`."""
    return model.predict(np.array(question["pixels"], np.uint8), verbose=0).tolist()


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
