"""Cityscapes label ids, which GTA5 shares; every street is labelled with them.

The tables convert them to the ids of other data sets. They are independent of the tables in `dataset/`, which
convert back, so that a wrong entry in either is noticed.
"""

EGO, OUT_OF_ROI, DYNAMIC = 1, 3, 5  # void
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN = 7, 8, 11, 12, 13, 17, 19, 20
VEGETATION, TERRAIN, SKY, PERSON, RIDER = 21, 22, 23, 24, 25
CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = 26, 27, 28, 31, 32, 33

# fmt: off
COLORS = {  # Cityscapes label id -> RGB, as published
    ROAD: (128, 64, 128), SIDEWALK: (244, 35, 232), BUILDING: (70, 70, 70), WALL: (102, 102, 156),
    FENCE: (190, 153, 153), POLE: (153, 153, 153), LIGHT: (250, 170, 30), SIGN: (220, 220, 0),
    VEGETATION: (107, 142, 35), TERRAIN: (152, 251, 152), SKY: (70, 130, 180), PERSON: (220, 20, 60),
    RIDER: (255, 0, 0), CAR: (0, 0, 142), TRUCK: (0, 0, 70), BUS: (0, 60, 100), TRAIN: (0, 80, 100),
    MOTORCYCLE: (0, 0, 230), BICYCLE: (119, 11, 32),
}
# Cityscapes label id -> the data set's own id; every other label becomes 0.
SYNTHIA_IDS = {
    SKY: 1, BUILDING: 2, ROAD: 3, SIDEWALK: 4, FENCE: 5, VEGETATION: 6, POLE: 7, CAR: 8, SIGN: 9, PERSON: 10,
    BICYCLE: 11, MOTORCYCLE: 12, LIGHT: 15, TERRAIN: 16, RIDER: 17, TRUCK: 18, BUS: 19, TRAIN: 20, WALL: 21,
}
ROBOTCAR_IDS = {
    SKY: 1, PERSON: 2, RIDER: 2, MOTORCYCLE: 3, BICYCLE: 3, CAR: 4, TRUCK: 4, BUS: 4, SIGN: 5, LIGHT: 6,
    BUILDING: 7, SIDEWALK: 10, ROAD: 11,
}
# fmt: on
