"""Games whose level files name both the music and the picture."""

from __future__ import annotations

from melfusion.data.games.describe import Described, Package, Script, Theme

_CDTRACKS = {  # of Nexuiz' default.cfg, g_cdtracks_remaplist
    "1": "digital-pursuit",
    "2": "breakdown-easy",
    "3": "brainsukker",
    "4": "chaos-fog",
    "5": "infight",
    "6": "neuronal-diving",
    "7": "subcities",
    "8": "thru-the-mirror",
    "9": "calling-bogus",
    "10": "beast-of-insanity",
    "11": "thunder",
    "12": "brokenlight",
    "13": "brokenlight",
    "14": "stairs",
    "15": "sixtyfour_",
    "16": "desert3",
    "17": "ninesix",
    "18": "sixtyfour_revisited",
    "19": "northern-lights",
}

_PLAYLISTS = {  # of WarMUX' music/profile.xml and the playlists that it names
    "fear": "Olivier_Militon.-.Etrange_epouvantable",
    "sea": "Olivier_Militon.-.Apnee|Olivier_Militon.-.Apnee2",
    "funfair": "Olivier_Militon.-.Vogue_a_lame",
    "monkey": "Mike_Errecart.-.Monkey-bubble",
}

LEVELS = {
    "fillets": Described(
        "Fish Fillets",
        (Package("fillets-ng-data", "usr/share/games/fillets-ng", licence="GPL-2"),),
        tracks=("music/*.ogg",),
        pictures=("images/*.png", "!images/demo_*", "!images/menu/*"),
        pairs=(
            Script(
                "script/*/",
                track=r'sound_playMusic\("music/(\w+)\.ogg"',
                track_name="music/{0}",
                picture=r'createRoom\(.*?"/([\w.-]+)"\)',
                picture_name="images/{stem}/{0}",
            ),
            Script(
                "script/*/",
                track=r'sound_playMusic\("music/(\w+)\.ogg"',
                track_name="music/{0}",
                picture_name="images/{stem}/poster",
            ),
        ),
        together=r"images/(\w+)/",
        place="underwater room",
    ),
    "warmux": Described(
        "WarMUX",
        (Package("warmux-data", "usr/share/games/warmux", licence="GPL-2+"),),
        tracks=("music/ingame/*.ogg", "music/menu/*.ogg"),
        pictures=("map/*.jpg", "map/*.png", "menu/background*.jpg"),
        pairs=(
            Script(
                "map/*/config.xml",
                track=r"<music_playlist>(\w+)<",
                tracks=_PLAYLISTS,
                picture_name="map/{folder}/*",
                title=r"(?s)(?:.*</author>)?.*?<name>([^<]+)<",
                theme="{0}",
            ),
        ),
        together=r"map/(\w+)/",
        place="battlefield",
    ),
    "neverball": Described(
        "Neverball",
        (Package("neverball-common", "usr/share/games/neverball"), Package("neverball-data", "usr/share/games/neverball")),
        tracks=("bgm/*.ogg",),
        pictures=("shot-*/*.jpg", "shot-*/*.png"),
        pairs=(Script("map-*/*.sol", track=r"(bgm/[\w-]+)\.ogg", picture=r"(shot-\w+/[\w-]+)\.(?:jpg|png)"),),
    ),
    "nexuiz": Described(
        "Nexuiz",
        (
            Package("nexuiz-data", "usr/share/games/nexuiz/data", archives=("data.pk3",), licence="GPL-2+"),
            Package("nexuiz-music", "usr/share/games/nexuiz/data", archives=("music.pk3",), licence="GPL-2+"),
        ),
        tracks=("music.pk3.d/sound/cdtracks/*.ogg",),
        pictures=("data.pk3.d/maps/*.jpg", "data.pk3.d/maps/*.tga", "!data.pk3.d/maps/*/*", "!*_mini.tga"),
        pairs=(
            Script(
                "data.pk3.d/maps/*.mapinfo",
                track=r"(?m)^cdtrack (\w+)",
                tracks=_CDTRACKS,
                track_name="cdtracks/{0}",
                picture_name="maps/{stem}",
                title=r"(?m)^title (.+)$",
            ),
        ),
        place="arena",
    ),
    "redeclipse": Described(
        "Red Eclipse",
        (Package("redeclipse-data", "usr/share/games/redeclipse/data"),),
        tracks=("sounds/music/*.ogg",),
        pictures=("maps/*.png",),
        pairs=(Script("maps/*.mpz", track=r"sounds/music/(track_\d+)", track_name="music/{0}", picture_name="maps/{stem}"),),
        place="arena",
        held_out=True,
    ),
    "openarena": Described(
        "OpenArena",
        (
            Package("openarena-088-data", "usr/share/games/openarena", archives=("baseoa/*.pk3",), licence="GPL-2+"),
            Package("openarena-085-data", "usr/share/games/openarena", archives=("baseoa/*.pk3",), licence="GPL-2+"),
            Package("openarena-081-maps", "usr/share/games/openarena", archives=("baseoa/*.pk3",), licence="GPL-2+"),
            Package("openarena-oacmp1", "usr/share/games/openarena", archives=("baseoa/*.pk3",), licence="GPL-2+"),
        ),
        tracks=("*/music/*.ogg",),
        pictures=("*/levelshots/*.tga", "*/levelshots/*.jpg"),
        pairs=(Script("*/maps/*.bsp", track=r'"music" +"(?:music/)?([\w-]+)', picture_name="levelshots/{stem}"),),
        place="arena",
        held_out=True,
    ),
    "berusky2": Described(
        "Berusky 2",
        (Package("berusky2-data", "usr/share/games/berusky2"),),
        tracks=("music/*.ogg",),
        pictures=("bitmap/bitmap/??CX_*.png", "bitmap/bitmap/end_screen*.png", "bitmap/bitmap/LoadScreen.png"),
        pairs=(
            Script("bitmap/bitmap/comix*.txt", track_name="music/{stem}", picture=r"(\d\dCX_\w+)\.png", picture_name="bitmap/{0}"),
        ),
        place="scene of the story",
    ),
    "krank": Described(
        "Krank",
        (Package("krank", "usr/share/games/krank"),),
        tracks=("sounds/*.ogg",),
        pictures=("levels/unera-backgrounds/*.jpg",),
        pairs=(
            Script(
                "levels/*.py",
                track=r"loadTheme\s*\('(\w+)'",
                track_name="sounds/{0}/*",
                picture=r"setBackground\s*\('([\w-]+)'",
                picture_name="unera-backgrounds/{0}",
                theme="{0}",
            ),
        ),
    ),
    "plee-the-bear": Described(
        "Plee the Bear",
        (Package("plee-the-bear-data", "usr/share/games/plee-the-bear", licence="CC-BY-SA-3.0"),),
        tracks=("music/*.ogg", "!music/sequencer/*"),
        pictures=("gfx/intro/*.png", "gfx/forest/bk/bk_1*.png", "gfx/title_screen/background_11.png"),
        pairs=(Script("level/*.cl", track=r"(music/[\w-]+)\.ogg", picture=r"(gfx/[\w/-]+)\.png"),),
    ),
    "ardentryst": Described(
        "Ardentryst",
        (Package("ardentryst", "usr/share/games/ardentryst"),),
        tracks=("Music/*.ogg",),
        pictures=("Data/Altar_*.png", "Data/Background_*.png", "Data/Map_*.png", "Data/StorySceneImages/*.png", "Data/Title.png"),
        pairs=(
            Theme(
                r"Music/(sempridge|snodom|castle|world_map|story).*",
                r"(?:Data/(?:Altar|Map)_|Data/StorySceneImages/)(\w+?)(?:_.*|\.png)",
                same={"castle": "entarya", "world_map": "sempridge|snodom|entarya", "story": "intro"},
            ),
        ),
        place="land",
    ),
}
