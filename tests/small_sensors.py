"""Sensors that tests make up."""

from anyband.sensors.sensor import Band, Encoding, OpticalRange, Sensor


def optical_sensor(*names: str) -> Sensor:
    """Make a sensor of reflectances, whose digital numbers are the values, with bands of these names."""
    bands = tuple(
        Band(
            name=name,
            spectrum=OpticalRange(low_nm=400.0 + 40 * index, high_nm=430.0 + 40 * index),
            gsd_m=10.0,
            unit="reflectance",
            encodings=(("dn", Encoding()),),
        )
        for index, name in enumerate(names)
    )
    return Sensor(name="testing", title="Testing", bands=bands, default_encoding="dn")
