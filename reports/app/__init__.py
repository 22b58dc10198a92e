"""The Streamlit app over a folder of runs. Each page is a module with one function that draws it."""
