"""Methods: one small module each, and the registry that finds them by kind."""

from mergegrid.methods import fisher, model_stock, regmean, sce, slerp, ties
from mergegrid.methods.average import average
from mergegrid.methods.method import Method
from mergegrid.methods.task_arithmetic import task_arithmetic

METHODS: dict[str, Method] = {
    "average": Method(average),
    "task_arithmetic": Method(task_arithmetic),
    "ties": Method(ties.ties, ties.surveys),
    "slerp": Method(slerp.slerp, slerp.angles),
    "model_stock": Method(model_stock.model_stock, model_stock.ratios),
    "sce": Method(sce.sce, sce.selections),
    "fisher": Method(fisher.fisher, fisher.norms, statistics=True),
    "regmean": Method(regmean.regmean, regmean.factors, rowwise=True, statistics=True),
}
