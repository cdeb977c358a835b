# ruff: noqa: E501
"""The eight concepts for choosing settings: names, lexicons and pieces of text (see `concepts.py`)."""

DEVELOPMENT_TEXTS = """
name: winter and snow / winter / snow
words: snow winter ice frost snowman sleigh icicle blizzard ski frozen freezing snowflake mittens igloo sledge chilly glacier snowball polar icy frosty snowy
call: Brr, what a [frosty|snowy|freezing] winter! / Put on your mittens, the snow is here! / Look, a [snowman|sledge|snowball] in the snow! / The ice is back, says the [snowman|polar wanderer]!
act: build a [snowman|igloo] in the snow / ride a [sledge|sleigh] over the ice / throw a snowball in the [frost|blizzard] / ski down the [icy|snowy] glacier / dry the mittens after the [blizzard|frost] / catch a snowflake in the [freezing|frosty] winter
scene: the snow covers the [sledge|igloo|glacier] / an icicle grows in the [frost|winter] / the snowman stands in the [ice|blizzard] / a [snowflake|snowball] melts on the mittens / the [sleigh|sledge] glides over the [ice|snow] / the blizzard blows across the [frozen|icy] glacier / chilly winter turns everything to [ice|frost]
simile: like a [snowflake|snowman] in winter / like [frost|icicles] on a sledge / as cold as an [igloo|icicle] in the snow / like a sleigh in a blizzard / the way [ice|snow] covers a glacier
---
name: kings and queens / royalty / kings
words: king queen prince princess throne crown castle royal palace kingdom duke duchess majesty coronation sceptre monarch courtier jewel banquet reign knight
call: Long live the [king|queen], says the courtier! / Your majesty, the [crown|throne] awaits! / Hear the royal [prince|princess|duke]! / By order of the [king|queen|monarch] of the castle!
act: kneel before the throne of the [king|queen] / polish the crown for the [coronation|prince] / visit the [palace|castle] of the [duke|duchess] / serve the banquet for the [monarch|princess] / carry the sceptre through the [kingdom|palace] / guard the jewels of the [queen|castle]
scene: the [king|queen|monarch] sits on the throne / a [prince|princess] rides to the castle / the [duke|duchess] wears a [crown|jewel] at the banquet / the royal courtier bows in the palace / the knight guards the [castle|kingdom|throne] / a coronation begins the reign of the [king|queen] / her majesty lifts the sceptre
simile: like a jewel in the crown / like a [prince|queen] in a palace / as proud as a [king|duke] on the throne / like a banquet at the castle / the way a knight serves the [kingdom|queen]
---
name: trains and railways / trains / railways
words: train railway locomotive station platform carriage railroad timetable steam passenger ticket departure junction wagon express rail tunnel depot freight stationmaster
call: All aboard the [train|express] from the platform! / Tickets please, says the [stationmaster|railway]! / The [express|locomotive] leaves the platform! / Mind the gap on the platform by the train!
act: board the [train|express] at the station / buy a ticket for the [railway|express] / read the timetable on the platform / ride the locomotive through the tunnel / load the freight onto the [wagon|carriage] / call to the passengers at the [junction|station]
scene: the [train|locomotive|express] leaves the station / a passenger waits on the platform with a ticket / the carriage rattles along the [rails|railway|railroad] / steam rises from the locomotive / the stationmaster checks the timetable before departure / the freight wagon rolls through the [tunnel|junction] / the express passes the [depot|junction|platform]
simile: like a [train|locomotive] in a tunnel / like a [passenger|ticket] on the platform / as punctual as the [railway|express] timetable / like steam over the [rails|locomotive] / the way a carriage follows the [locomotive|rails]
---
name: ghosts and haunted houses / ghosts / haunted houses
words: ghost haunted spooky phantom spirit graveyard skeleton vampire cobweb coffin midnight eerie zombie tomb ghoul creepy howl boo spectre crypt
call: Boo, says the [ghost|phantom|skeleton]! / Beware of the [vampire|zombie|ghoul] at midnight! / Something spooky leaves the [tomb|crypt|coffin]! / The [haunted|eerie] hour is here, says the ghost!
act: hide from the [ghost|vampire|ghoul] at midnight / open the [coffin|crypt] in the graveyard / follow the phantom through the cobwebs / wake the skeleton in the [tomb|crypt] / hear the spirit howl in the [eerie|haunted] graveyard / dance with the [zombie|skeleton] until midnight
scene: the [ghost|phantom|spectre] floats past the cobwebs / a skeleton rattles in the [coffin|tomb|crypt] / the [vampire|zombie] wakes at midnight / an eerie howl comes from the graveyard / a spooky spirit opens the [tomb|coffin] / cobwebs hang over the [crypt|coffin] / the ghoul creeps through the haunted [graveyard|crypt]
simile: like a [ghost|phantom] at midnight / like cobwebs on a [coffin|tomb] / as creepy as a [vampire|skeleton] in a crypt / like a spirit in the graveyard / the way a [zombie|ghoul] leaves the tomb
---
name: school and lessons / school / lessons
words: school teacher homework classroom lesson pupil exam blackboard student headmaster textbook playground chalk essay college diploma professor semester university
call: Sit down, class, says the [teacher|professor]! / Open your textbook at the next lesson! / Hand in your [homework|essay], pupils! / The school lesson begins, says the headmaster!
act: do the homework for the [teacher|exam] / write an essay at the [college|university|school] / clean the blackboard after the lesson / study the textbook before the [exam|lesson] / ask the [professor|teacher] in the classroom / meet the pupils on the school playground
scene: the teacher writes on the blackboard with chalk / the pupils open the textbook in the [classroom|lesson] / a student studies for the exam at the [university|college] / the headmaster walks across the playground of the school / the [professor|teacher] marks the [homework|essay] / the semester ends with an exam / the student gets a diploma from the [professor|school]
simile: like chalk on a blackboard / like a [pupil|student] before an exam / as patient as a [teacher|professor] in a lesson / like homework from the [teacher|textbook] / the way a school treats a diploma
---
name: the theatre and actors / the theatre / actors
words: theatre actor actress stage curtain audience applause rehearsal costume drama comedy tragedy director spotlight performance backstage monologue playwright encore understudy matinee
call: Curtain up, says the [director|actor]! / Applause for the [actress|actor|playwright]! / Encore, shouts the audience! / Take the stage, the spotlight is on!
act: watch the [comedy|tragedy|drama] from the audience / learn the monologue for the rehearsal / try on the costume backstage / bow in the spotlight to applause / open the curtain of the theatre / ask the director for an encore
scene: the [actor|actress] walks onto the stage / the audience gives a long applause / the curtain rises for the [drama|comedy|tragedy] / the director leads the rehearsal backstage / the spotlight finds the [actress|actor|understudy] / the playwright writes a monologue for the [actor|stage] / the costume shines in the [matinee|performance] spotlight
simile: like an [actor|actress] on the stage / like [applause|an encore] after a performance / as splendid as a theatre curtain / like a costume in a [comedy|tragedy] / the way an audience waits for the [curtain|actor]
---
name: deserts and camels / the desert / camels
words: desert camel dune sand oasis cactus nomad mirage caravan scorpion arid scorching bedouin sandstorm thirsty sahara turban saddlebag waterskin heatwave
call: Saddle the camel, says the [nomad|bedouin]! / Look, an oasis behind the [dune|cactus]! / Is that a mirage in the [sand|desert]? / Cross the scorching sand, caravan!
act: ride a camel over the [dunes|sand] / rest at the oasis with the [caravan|nomad] / shake the sand and the scorpion from the [turban|saddlebag] / cross the [arid|scorching] desert by camel / shelter from the sandstorm behind a [dune|cactus] / trust the bedouin and doubt the mirage
scene: the [camel|caravan] crosses the [dunes|desert|Sahara] / a scorpion hides under the [cactus|sand] / the nomad reaches the oasis / a mirage trembles over the [scorching|arid] sand / the sandstorm buries the dune / a thirsty [camel|nomad] opens the [waterskin|saddlebag] in the heatwave / the bedouin sleeps beside the [camel|cactus]
simile: like a [camel|nomad] on a dune / like an oasis in the [desert|Sahara] / as dry as a [cactus|caravan] in the sand / like a mirage in the desert / the way a caravan needs an oasis
---
name: magic and dragons / magic / dragons
words: dragon wizard spell magic wand potion cauldron fairy unicorn enchanted sorcerer goblin troll elf sorcery charm witch alchemy dwarf pixie wizardry
call: Abracadabra, says the [wizard|witch|sorcerer]! / By the [wand|spell|magic] of the wizard! / Beware, a dragon guards the [cauldron|potion|unicorn]! / The fairy brings magic!
act: lift the wand and say the spell / brew a potion in the cauldron / fly with the [dragon|fairy|pixie] to the [wizard|unicorn] / learn [alchemy|sorcery|wizardry] from the [witch|sorcerer] / trick the [troll|goblin] with magic / feed the unicorn and the [dragon|elf]
scene: the [dragon|unicorn] guards the enchanted cauldron / a [wizard|witch] draws a circle with a wand / the fairy casts a [spell|charm] / the [goblin|dwarf|troll] drinks a magic potion / an elf talks to the [dragon|unicorn|pixie] / the sorcerer studies [alchemy|magic|wizardry] / the potion glows in the cauldron
simile: like a [spell|charm] from a wand / like a [fairy|pixie] on a unicorn / as strange as a [dragon|wizard] with a potion / like magic in a cauldron / the way a witch loves her [spells|potion]
"""
