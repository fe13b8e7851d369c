"""Games of which no file says which picture goes with which track."""

from __future__ import annotations

from melfusion.data.games.describe import Described, Package


def _game(
    name: str, package: str, data: str, tracks: str, pictures: str, more: str = "", held_out: bool = False, licence: str = ""
) -> Described:
    """A game of one package, or with its pictures in the package `more`; globs with spaces between them."""
    packages = tuple(Package(each, data, licence=licence) for each in (package, more) if each)
    return Described(name, packages, tuple(tracks.split()), tuple(pictures.split()), held_out=held_out)


WHOLE = {
    "marsshooter": _game(
        "M.A.R.S.", "marsshooter-data", "usr/share/games/marsshooter", "audio/music/*.ogg audio/menu.ogg", "tex/background/*"
    ),
    "planetblupi": _game(
        "Planet Blupi",
        "planetblupi-music-ogg",
        "usr/share/planetblupi",
        "music/*.ogg",
        "image/back-*.png image/history*.png image/info*.png image/init.png image/intro*.png image/last*.png "
        "image/lost.png image/win.png image/movie.png image/play.png image/bye.png",
        "planetblupi-common",
    ),
    "widelands": _game(
        "Widelands",
        "widelands-data",
        "usr/share/games/widelands/data",
        "music/*.ogg",
        "campaigns/*/pics/*.jpg */loadscreens/*.jpg */loadscreens/gameloading/*.png",
    ),
    "warzone2100": Described(
        "Warzone 2100",
        (
            Package("warzone2100-music", "usr/share/games/warzone2100"),
            Package("warzone2100-data", "usr/share", archives=("games/warzone2100/base.wz",)),
        ),
        ("music/*.opus",),
        ("*/texpages/bdrops/*", "doc/warzone2100/images/*.jpg"),
    ),
    "unknown-horizons": _game(
        "Unknown Horizons",
        "unknown-horizons",
        "usr/share/unknown-horizons/content",
        "audio/music/*.ogg",
        "gui/images/background/mainmenu/*.png",
    ),
    "freecol": _game(
        "FreeCol",
        "freecol",
        "usr/share/games/freecol",
        "*.ogg",
        "*/ui/meet_*.png */ui/exploration.png */ui/landing.png */ui/trade.png */ui/d[io]*.png */ui/military.png */ui/religious.png "
        "*/ui/political.png */ui/map.jpg",
        held_out=True,
    ),
    "freedroidrpg": _game(
        "FreedroidRPG",
        "freedroidrpg-data",
        "usr/share/freedroidrpg/data",
        "sound/music/*.ogg *titles/*.ogg",
        "graphics/backgrounds/*.jpg",
    ),
    "starfighter": _game(
        "Project: Starfighter", "starfighter-data", "usr/share/starfighter", "music/*.ogg", "gfx/*.jpg", held_out=True
    ),
    "trackballs": _game(
        "Trackballs", "trackballs-data", "usr/share/games/trackballs", "music/*.ogg", "levels/*.jpg images/s[lp]*.jpg"
    ),
    "wizznic": _game(
        "Wizznic",
        "wizznic-data",
        "usr/share/games/wizznic",
        "*.ogg",
        "packs/*/boards/*.png packs/*/bg/*.png packs/*/starts/*.png",
        held_out=True,
    ),
    "btanks": _game(
        "Battle Tanks",
        "btanks-data",
        "usr/share/games/btanks/data",
        "tunes/*.ogg sounds/ambient/*.ogg",
        "maps/*.jpg tiles/menu/*.jpg",
    ),
    "davegnukem": _game("Dave Gnukem", "davegnukem-data", "usr/share/games/davegnukem", "music/*.ogg", "levels/*.tga"),
    "zaz": _game("Zaz", "zaz-data", "usr/share/games/zaz", "mus*.ogg", "level?.jpg level??.jpg", held_out=True),
    "lordsawar": _game(
        "LordsAWar!", "lordsawar-data", "usr/share/games/lordsawar", "music/*.ogg", "various/*.png !various/bigmedals.png"
    ),
    "colobot": Described(
        "Colobot",
        (
            Package("colobot-common-sounds", "usr/share/games/colobot"),
            Package("colobot-common-textures", "usr/share/games/colobot"),
            Package("colobot-common", "usr/share/games/colobot"),
        ),
        ("music/*.ogg",),
        ("textures/back*.png", "textures/interface/intro*.png", "textures/interface/generico.png"),
    ),
    "mazeofgalious": _game(
        "Maze of Galious",
        "mazeofgalious-data",
        "usr/share/games/mazeofgalious",
        "sound/*.ogg",
        "graphics/naramura/back*.pcx graphics/naramura/final.pcx graphics/naramura/start.pcx",
        licence="GPL",
    ),
    "lincity-ng": _game("LinCity-NG", "lincity-ng-data", "usr/share/games/lincity-ng", "music/*.ogg", "images/mainmenu/*.png"),
    "renpy-demo": _game(
        "Ren'Py Tutorial",
        "renpy-demo",
        "usr/share/games/renpy/demo",
        "*.ogg",
        "game/images/bg*.jpg game/images/bg*.webp game/gui/main_menu.jpg",
    ),
    "renpy-thequestion": _game(
        "The Question",
        "renpy-thequestion",
        "usr/share/games/renpy/the_question",
        "*.opus",
        "game/images/bg*.jpg game/gui/main_menu.png",
    ),
    "angrydd": _game(
        "Angry Drunken Dwarves", "angrydd", "usr/share/games/angrydd", "music/*.ogg", "images/*bg.png characters/*/background.png"
    ),
    "glob2": _game("Globulation 2", "glob2-data", "usr/share/games/glob2/data", "zik/*.ogg", "gfx/Intro*.png", licence="GPL-3+"),
    "mrrescue": Described(
        "Mr. Rescue",
        (Package("mrrescue", "usr/share/games/mrrescue", archives=("mrrescue.love",)),),
        ("*/sfx/*.ogg",),
        ("*/backgrounds/*.png", "*/splash*.png", "*/howto.png"),
    ),
    "enigma": _game("Enigma", "enigma-data", "usr/share/games/enigma", "music/*.ogg", "gfx48/menu_bg.jpg", licence="GPL-2"),
    "gigalomania": _game("Gigalomania", "gigalomania-data", "usr/share/gigalomania", "music/*.ogg", "gfx/*.jpg"),
    "hex-a-hop": _game("Hex-a-Hop", "hex-a-hop-data", "usr/share/games/hex-a-hop/hex-a-hop", "music*.ogg", "map_top.png title.png"),
    "raincat": _game("Raincat", "raincat-data", "usr/share/games/raincat/data", "music/*.ogg", "levels/*.png backgrounds/*.png"),
    "singularity": Described(
        "Endgame: Singularity",
        (
            Package("singularity-music", "usr/share/games/singularity", licence="CC-BY-SA-3.0"),
            Package("singularity", "usr/lib/python3/dist-packages/singularity/data", licence="GPL-2+"),
        ),
        tracks=("music/*.ogg",),
        pictures=("themes/*/images/earth*",),
    ),
    "tuxtype": Described(
        "Tux Typing",
        (Package("tuxtype-data", "usr/share/tuxtype", licence="GPL-2"),),
        tracks=("sounds/*.ogg",),
        pictures=("images/*.jpg", "images/backgrounds/*.jpg", "themes/*/photo.png"),
    ),
    "tuxmath": Described(
        "Tux, of Math Command",
        (Package("tuxmath-data", "usr/share/tuxmath"),),
        tracks=("sounds/*.ogg",),
        pictures=("images/backgrounds/*.jpg", "images/title/*.jpg"),
    ),
}
