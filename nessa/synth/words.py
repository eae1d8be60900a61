"""What the synthetic speakers say: some two hundred plain English words."""

_TEXT = """
zero one two three four five six seven eight nine ten eleven twelve twenty thirty hundred
thousand alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november
oscar papa quebec romeo sierra tango uniform victor whiskey yankee zulu apple river window
orange table garden winter summer morning evening yellow purple silver mountain valley forest
ocean island bridge castle village market station engine wheel paper pencil letter number
picture music violin guitar drum piano dance theatre story chapter question answer reason future
history moment minute hour second week month season weather thunder rain snow cloud shadow light
mirror candle kitchen bottle butter cheese bread coffee sugar pepper potato tomato onion carrot
lemon cherry honey biscuit chicken rabbit tiger elephant monkey horse sheep donkey spider eagle
pigeon dolphin shark turtle doctor farmer teacher pilot sailor painter writer singer brother
sister mother father cousin neighbour friend stranger office factory hospital library museum
church school college travel journey ticket luggage passport airport harbour highway corner
circle square triangle measure balance power method figure pattern copper iron golden wooden
heavy gentle quiet simple famous hungry careful beautiful dangerous possible different important
remember forget follow believe imagine discover deliver gather wander whisper please open close
begin finish carry choose build break catch drive fly
"""

WORDS = tuple(_TEXT.split())
