include: "workflow/Snakefile"


# The first rule of an included file is not the default target by itself.
workflow.default_target = "all"
