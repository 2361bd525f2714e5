"""x"""
from deploy.check.report import Report
def check(report: Report) -> None:
    """x"""
