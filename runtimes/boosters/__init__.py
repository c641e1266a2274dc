"""Models of gradient boosting in the files that XGBoost, LightGBM and CatBoost write themselves."""
