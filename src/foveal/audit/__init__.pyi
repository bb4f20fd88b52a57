from .comparison import audit as audit
