"""Names of products say when they were taken; other names say nothing."""

import datetime as dt

import pytest

from anyband.rasters.products import product_time


@pytest.mark.parametrize(
    ("name", "mission", "time"),
    [
        ("S2A_MSIL2A_20200701T102031_N0214_R065_T32UQD_20200703T123456.SAFE", "Sentinel-2", "2020-07-01T10:20:31"),
        ("S2A_MSIL2A_20170613T101031_0_48_B02", "Sentinel-2", "2017-06-13T10:10:31"),
        ("S2B_OPER_PRD_MSIL1C_PDMC_2016_R022_V20151231T102031_20151231", "Sentinel-2", "2015-12-31T10:20:31"),
        ("T32UQD_20200701T102031_B02_10m", "Sentinel-2", "2020-07-01T10:20:31"),
        ("L2A_T32UQD_A026245_20200701T102258", "Sentinel-2", "2020-07-01T10:22:58"),
        ("S2A_32UQD_20200701_0_L2A", "Sentinel-2", "2020-07-01"),
        ("S1A_IW_GRDH_1SDV_20200701T053355_20200701T053420_033257_03DA5B_E3E0", "Sentinel-1", "2020-07-01T05:33:55"),
        ("S1A_IW_SLC__1SDV_20200701T053355_20200701T053420_033257_03DA5B_E3E0", "Sentinel-1", "2020-07-01T05:33:55"),
        ("s1a-iw-grd-vh-20200701t053400-20200701t053425-033245-03d9f5-002", "Sentinel-1", "2020-07-01T05:34:00"),
        ("s1b-iw1-slc-vv-20200701t053400-20200701t053425-033245-03d9f5-004", "Sentinel-1", "2020-07-01T05:34:00"),
        ("S1B_IW_20200701T053355_DVP_RTC30_G_gpuned_AB12_VV", "Sentinel-1", "2020-07-01T05:33:55"),
        ("OPERA_L2_RTC-S1_T069-147170-IW1_20231101T053355Z_20231102T10_S1A_30_VV", "Sentinel-1", "2023-11-01T05:33:55"),
        ("S3A_OL_1_EFR____20200701T093015_20200701T093315_2020", "Sentinel-3", "2020-07-01T09:30:15"),
        ("S5P_OFFL_L2__NO2____20200701T093015_20200701T111145_14069_01", "Sentinel-5P", "2020-07-01T09:30:15"),
        ("LC08_L2SP_193024_20200701_20200825_02_T1_SR_B4", "Landsat", "2020-07-01"),
        ("lc09_l1tp_193024_20220701_20220825_02_t1_mtl", "Landsat", "2022-07-01"),
        ("LC08_CU_012009_20200701_20210503_02_SR_B2", "Landsat", "2020-07-01"),
        ("LT51930242011183MOR00_B3", "Landsat", "2011-07-02"),
        ("HLS.S30.T32UQD.2020183T102031.v2.0.B02", "HLS", "2020-07-01T10:20:31"),
        ("HLS.L30.T32UQD.2020183T101650.v2.0.B05", "HLS", "2020-07-01T10:16:50"),
        ("MOD09A1.A2020183.h18v03.006.2020193041122", "MODIS", "2020-07-01"),
        ("MCD43A4.061_Nadir_Reflectance_Band1_doy2020183_aid0001", "MODIS", "2020-07-01"),
        ("VNP09GA.A2020183.h18v03.001", "VIIRS", "2020-07-01"),
        ("20200701_095032_1054_3B_AnalyticMS_SR_clip", "Planet", "2020-07-01T09:50:32"),
        ("20220701_095032_56_24a1_3B_AnalyticMS_8b", "Planet", "2022-07-01T09:50:32"),
        ("20200701_095032_ssc1_u0001_analytic", "Planet", "2020-07-01T09:50:32"),
        ("3263310_2015-07-01_RE3_3A_Analytic", "RapidEye", "2015-07-01"),
        ("m_4207108_se_18_060_20180812_20190205", "NAIP", "2018-08-12"),
        ("m_3712213_sw_10_1_20140613", "NAIP", "2014-06-13"),
        ("ENMAP01-____L2A-DT0000001053_20220607T081312Z_001_V010108", "EnMAP", "2022-06-07T08:13:12"),
        ("PRS_L2D_STD_20200701102031_20200701102035_0001", "PRISMA", "2020-07-01T10:20:31"),
        ("EMIT_L2A_RFL_001_20220827T060753_2223904_013", "EMIT", "2022-08-27T06:07:53"),
        ("DESIS-HSI-L2A-DT0884573241_001-20200601T090520-V0210", "DESIS", "2020-06-01T09:05:20"),
        ("ECOv002_L2T_LSTE_12345_006_32UQD_20200701T102031_0710_01_LST", "ECOSTRESS", "2020-07-01T10:20:31"),
        ("AST_L1T_00307012020102031_20200702111111_12345", "ASTER", "2020-07-01T10:20:31"),
        ("20JUL01102031-M2AS-012345678901_01_P001", "Maxar", "2020-07-01T10:20:31"),
        ("IMG_PHR1A_MS_202007011020315_ORT_1", "Pleiades or SPOT", "2020-07-01T10:20:31"),
    ],
)  # fmt: skip
def test_a_product_says_when_it_was_taken(name: str, mission: str, time: str) -> None:
    assert product_time(name) == (mission, dt.datetime.fromisoformat(time).replace(tzinfo=dt.UTC))


@pytest.mark.parametrize(
    "name",
    ["20200701", "scene_2020-07-01", "T32UQD", "B02_10m", "tile_20200701_102031",
     "LC08_L2SP_193024_20201301_20200825_02_T1",
     "m_4207108", "x20200701T102031", "S2A_32UQD_20200701_0_L2A-S2A_32UQD_20210701_0_L2A",
     "MOD09A1.A2020400.h18v03", ""],
)  # fmt: skip
def test_other_names_say_nothing(name: str) -> None:
    assert product_time(name) is None
