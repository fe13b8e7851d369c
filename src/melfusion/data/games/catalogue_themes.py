"""Games whose music and pictures belong to the same chapter, people or mood."""

from __future__ import annotations

from melfusion.data.games.describe import Described, Package, Script, Theme

_UFO = "alexfightmare|crystan-battlescape|greecei|psymon|returnjourney|space|thethings|ufo1|van_mission"

_CIVS = {  # the fields "Music" of 0 A.D.'s simulation/data/civs/*.json
    "athen": "Harvest_Festival|Forging_a_City-State|Highland_Mist|The_Hellespont",
    "brit": "The_Fledgling_Kingdom|Solstice_Festival|Whistler|As_Seasons_Change|Highland_Mist|Celtica|Mountain_Idyll"
    "|Albian_Nocturne",
    "cart": "Mediterranean_Waves|Harsh_Lands_Rugged_People|Peaks_of_Atlas|From_Every_Corner",
    "gaul": "Celtic_Pride|Cisalpine_Gaul|Harvest_Festival|Water's_Edge|Sunrise|Harvest_Moon",
    "han": "Red_Dawn|Hill_of_Sorrows",
    "iber": "An_old_Warhorse_goes_to_Pasture|Celtica|Harsh_Lands_Rugged_People|Midwinter|The_Pillars_of_Hercules",
    "kush": "Ammon-Ra|Sands_of_Time|Land_between_the_two_Seas|Valley_of_the_Nile|Bandit_Country|Mirage|Point_of_No_Return",
    "mace": "Rise_of_Macedon|In_the_Shadow_of_Olympus|Elysian_Fields|The_Hellespont|Northern_Frontier|Upstart_King|Epitaph",
    "maur": "An_old_Warhorse_goes_to_Pasture|Land_between_the_two_Seas|Eastern_Dreams|Karmic_Confluence|Beyond_The_Indus",
    "pers": "Eastern_Dreams|Valley_of_the_Nile|Land_between_the_two_Seas|Sands_of_Time",
    "ptol": "Ammon-Ra|Sands_of_Time|Land_between_the_two_Seas|Valley_of_the_Nile|Epitaph|Along_the_Nile",
    "rome": "Juno_Protect_You|Mediterranean_Waves|Elysian_Fields|The_Governor|Alba_Longa_Burns|Roman_Ingenuity",
    "sele": "Rise_of_Macedon|In_the_Shadow_of_Olympus|The_Hellespont|Cradle_of_Civilization|Expedition|Land_Between_Rivers",
    "spart": "Helen_Leaves_Sparta|Peaks_of_Atlas|Forging_a_City-State|The_Hellespont|Only_300_Stood",
}

THEMES = {
    "0ad": Described(
        "0 A.D.",
        (Package("0ad-data", "usr/share/games/0ad/mods/public", archives=("public.zip",)),),
        tracks=("*/audio/music/*.ogg",),
        pictures=("*/icons/mappreview/*.dds", "*/loading/tips/*.dds", "!*nopreview*", "!*/unknown*"),
        pairs=(
            Script(
                "*/maps/s*/*.xml",
                track=r'"Civ": *"(\w+)"',
                tracks=_CIVS,
                track_name="music/{0}",
                picture=r'"Preview": *"([\w.-]+)"',
                picture_name="mappreview/{0}.cached.dds",
                theme="{0}",
                pairing="theme",
            ),
        ),
        together=r".*/mappreview/([a-z_-]+?)(?:_\d+p?|_skirmish|_scenario)*\.png",
        crop={"*/mappreview/*": (400, 300), "*/tips/*": (512, 384)},
        place="land",
    ),
    "megaglest": Described(
        "MegaGlest",
        (Package("megaglest-data", "usr/share/games/megaglest"),),
        tracks=("techs/*/music/*.ogg", "data/core/menu/music/*.ogg"),
        pictures=("*/loading_screen.jpg", "data/core/menu/textures/*.jpg"),
        pairs=(
            Theme(r"techs/\w+/factions/(\w+)/music/.*", r"techs/\w+/factions/(\w+)/loading_screen.*"),
            Script(
                "scenarios/*/*.xml",
                track=r'faction="(\w+)"',
                track_name="factions/{0}/music/*",
                picture_name="{folder}/loading_screen",
                theme="{0}",
                pairing="theme",
            ),
        ),
        place="battle",
        held_out=True,
    ),
    "amoebax": Described(
        "Amoebax",
        (Package("amoebax-data", "usr/share/games/amoebax"),),
        tracks=("music/*.ogg",),
        pictures=("graphics/*Background.png", "graphics/congratulations.png", "graphics/gameover.png"),
        pairs=(
            Theme(r"music/([\w.]+)Background\.ogg", r"graphics/([\w.]+)Background\.png", pairing="level"),
            Theme(r"music/(menu|congratulations)\.ogg", r"graphics/(menu|congratulations)(?:Background)?\.png"),
        ),
        place="duel",
        held_out=True,
    ),
    "frozen-bubble": Described(
        "Frozen-Bubble",
        (Package("frozen-bubble-data", "usr/share/games/frozen-bubble"),),
        tracks=("snd/*zik*.ogg",),
        pictures=("gfx/back_*.png", "gfx/*/back_*.png"),
        pairs=(
            Theme(
                r"snd/(?:frozen-mainzik-)?(1p|2p|introzik)\.ogg",
                r"gfx/(?:\w+/)?back_(\w+)\.png",
                same={"1p": "one_player", "2p": "multiplayer|netgame", "introzik": "intro|start"},
                words={"1p": "one-player", "2p": "two-player", "introzik": "opening"},
            ),
        ),
        place="game",
    ),
    "lugaru": Described(
        "Lugaru",
        (Package("lugaru-data", "usr/share/games/lugaru"),),
        tracks=("Sounds/Music*.ogg", "Sounds/*Ambient.ogg"),
        pictures=(
            "Textures/Skybox*/Back.jpg",
            "Textures/Skybox*/Front.jpg",
            "Textures/Skybox*/Left.jpg",
            "Textures/Skybox*/Right.jpg",
        ),
        pairs=(
            Theme(
                r"Sounds/(?:Music1)?(desert|grass|snow)(?:Ambient)?\.ogg", r"Textures/Skybox\((\w+)\)/.*", same={"desert": "sand"}
            ),
        ),
        place="land",
    ),
    "ufoai": Described(
        "UFO: Alien Invasion",
        (
            Package("ufoai-music", "usr/share/games/ufoai/base", "base/0music.pk3.d/", archives=("0music.pk3",)),
            Package("ufoai-data", "usr/share/games/ufoai/base", archives=("0pics.pk3",)),
        ),
        tracks=("0music.pk3.d/music/*.ogg", "!*dynamictest*"),
        pictures=(
            "*/background/conback.jpg",
            "*/background/*lo*.*",
            "*/background/main_bg.png",
            "*/background/w[io]n*_bg.jpg",
            "*/tutorial/gameplay1a.jpg",
            "*/tutorial/gameplay[78]*.jpg",
            "*/tutorial/tactical1.jpg",
        ),
        pairs=(  # the lists of ufos/music.ufo, and the screens that start them
            Theme(rf".*/({_UFO}).*", r".*/(maploading|gameplay8b|tactical1|won_bg|lost_bg|conback)\..*", word="ground combat"),
            Theme(
                r".*/(crystan-geosphere|dbsea|karlmacklin|van_geoscape).*",
                r".*/(gameplay1a|gameplay7a|gameplay8a)\..*",
                word="geoscape",
            ),
            Theme(r".*/(van_theme).*", r".*/(main_bg|loading)\..*", word="main menu"),
            Theme(r".*/crystan-(win|loose)game.*", r".*/(win|lose)game_bg.*", same={"loose": "lose"}),
        ),
        place="part",
    ),
}
