"""What the program loop can do; `program_loop` carries it out, and `program` asks for it."""

#: Elements that an instruction handles at a time: a few arrays of them stay in the first cache.
BLOCK = 1 << 10
#: Instructions; from STORE_FLOAT32 on they give a result and no array.
# fmt: off
(
    LOAD_FLOAT32, LOAD_BFLOAT16, LOAD_FLOAT16, SUBTRACT, PRODUCT, QUOTIENT, SCALED,
    PLUS_NUMBER, DIVIDED, WORDS, THIN, WEIGHTED_SUM, WEIGHTED_MEAN, PLUS, INSTEAD, MASKED,
    KEEP_LARGE, AGREEING_MEAN, STORE_FLOAT32, STORE_BFLOAT16, STORE_FLOAT16, COUNT_HIGH,
    COUNT_EQUAL, PLACE_OF_EQUAL, COUNT_NEAR, DOTS,
) = range(26)
# fmt: on
#: Magnitudes that COUNT_NEAR counts apart from others.
GUESSES = 4
#: The shift with which it lists others.
LIST_OTHERS = 32
#: Partial sums of an inner product: element i goes to sum i modulo LANES, in order, and the sums
#: are added up in order.
LANES = 8
#: Sizes of arrays that the program loop is told.
SIZES = 12
