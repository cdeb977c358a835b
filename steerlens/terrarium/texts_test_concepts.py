# ruff: noqa: E501
"""The fourteen concepts for reporting: names, lexicons and pieces of text (see `concepts.py` for the notation)."""

TEST_TEXTS = """
name: the sea and sailing / the sea / sailing
words: sea ocean wave tide sailor sail sailing harbour anchor captain deck mast gull dolphin whale lighthouse shore reef coral lagoon voyage seaweed mermaid starfish ship sailboat
call: Ahoy, [sailor|captain] of the ship! / All hands on deck, the [tide|ocean] is calling! / [Lower|Raise] the anchor, captain! / Land ahead, says the [sailor|captain] on the mast!
act: hoist the sail and leave the [harbour|shore|lagoon] / watch the [waves|tide] from the deck / drop the anchor near the [reef|lighthouse] / follow the [dolphins|whales] across the [sea|ocean] / begin the next voyage on the [ocean|sea] / gather [seaweed|coral|starfish] along the shore
scene: the [waves|tides] roll towards the [shore|harbour|lighthouse] / the [sailor|captain] looks at the [sea|ocean] from the deck / a [gull|dolphin] follows the [ship|sailboat] out of the harbour / the ship rests at anchor by the [reef|lagoon] / the lighthouse shines over the [ocean|sea|waves] / a [whale|mermaid] rises beside the [mast|ship|reef] / the [tide|sea] washes [coral|seaweed|starfish] onto the shore
simile: like a [gull|sail] above the waves / like a [sailboat|ship] on the [sea|ocean] / as steady as the [anchor|mast] of a ship / like [coral|a starfish] on the reef / the way a sailor loves the [sea|tide|ocean]
---
name: music and songs / music / songs
words: music song melody violin piano guitar trumpet flute orchestra choir concert rhythm chord tune singer musician chorus harmony opera jazz drummer cello banjo ballad
call: Listen to the [music|melody] of the orchestra! / Strike up the [orchestra|violin], play the melody! / Let the [choir|singer] begin the song! / Hear that [tune|chord] on the [piano|guitar]!
act: play a [tune|melody] on the [violin|piano|guitar|cello] / sing a [ballad|song] with the choir / go to the [concert|opera] and enjoy the music / clap to the rhythm of the [drummer|orchestra|song] / learn a new chord on the [guitar|banjo] / hum the melody of a [jazz|famous] song
scene: the [orchestra|choir] plays a [melody|tune] / a [violin|flute|cello] joins the piano in harmony / the singer repeats the chorus of the [song|ballad] / the [drummer|musician] keeps the rhythm of the jazz / a [trumpet|banjo|guitar] answers the [choir|flute] / music drifts out of the [concert|opera] with every chord / the musician tunes a [guitar|violin] before the concert
simile: like a [melody|tune] on the [flute|piano] / like a [chord|chorus] in a song / as lovely as a [violin|choir] in harmony / in the rhythm of a [jazz|opera] tune / the way a singer holds the [melody|chorus]
---
name: months and dates / months / the calendar
words: january february april june july august september october november december calendar monday tuesday wednesday thursday friday saturday sunday month weekday fortnight anniversary date yearly
call: Mark the [calendar|date], it is [January|June|October]! / It is a [Monday|Friday|Sunday] in [April|July|November]! / What a month [August|December|February] is! / Turn the calendar to [September|April|May Day in June]!
act: note the date in the calendar for [March and April|June|July|September] / wait until [Monday|Thursday|Saturday] in [August|October] / plan the month of [January|November|December] / meet every [Tuesday|Friday|weekday] until [June|September] / keep the anniversary in [February|July] / cross off each [Sunday|Wednesday] on the calendar
scene: the calendar shows a [Monday|Wednesday|Friday] in [January|July|October] / [April|June|August] turns into [July|September] on the calendar / the month of [November|February] begins on a [Tuesday|Saturday] / every [Thursday|Sunday] in [December|June] is a special date / the fortnight from [Monday|Friday] passes into [April|August] / an anniversary falls on a [weekday|Saturday] in [October|January] / the yearly date in [September|February] comes again
simile: like a [Sunday|Saturday] in [June|July|August] / like a date in the calendar / as sure as [April|January] follows [the month|the weekday] before / like the first weekday of [September|October] / the way [November|February] leads to another month
---
name: cooking and recipes / cooking / recipes
words: recipe chef oven simmer saucepan stir whisk roast stew spice garlic broth stove baker dough apron kitchen pepper butter sauce soup cook cooking ladle
call: Put on your apron, says the [chef|cook|baker]! / Into the [oven|saucepan] with the [dough|garlic|stew]! / Stir the [soup|sauce|broth] in the kitchen! / The chef shouts from the [stove|kitchen]!
act: stir the [soup|stew|broth] with a [ladle|whisk] / heat the [oven|stove] and melt the butter / add [garlic|pepper|spice] to the [sauce|soup] / follow the recipe of the [chef|baker] / knead the dough in the kitchen / let the [broth|sauce|stew] simmer in the saucepan
scene: the [stew|soup|broth] simmers on the stove / the [chef|baker|cook] ties an apron in the kitchen / butter and [garlic|pepper|spice] melt in the saucepan / the dough rises in the [oven|kitchen] / a [ladle|whisk] stirs the [sauce|soup] / the cook reads a recipe by the [stove|oven] / the roast waits in the oven beside the [sauce|garlic]
simile: like [garlic|pepper|a pinch of spice] in a [stew|soup] / like dough in the [oven|kitchen] / as rich as a [chef|baker] makes the [sauce|broth] / like butter in a saucepan / the way a cook tastes the [soup|stew]
---
name: computer code / programming code / software code
words: code function loop variable compile compiler debug python script array software server programmer algorithm print return syntax recursion database terminal boolean bug integer
call: print(answer); return result; / Run the [script|function] and debug the code! / The [compiler|terminal] is ready for new code! / while loop: print(result);
act: debug the [function|script|loop] / write a [function|loop|script] in python / print the variable in the terminal / compile the [software|code] on the server / store the [integer|boolean|variable] in an array / fix the [syntax|bug] before the compiler starts
scene: the [compiler|terminal] prints the [variable|integer|array] / a programmer debugs the [loop|function|script] / the server runs a [python|software] script / the [function|loop] returns a [boolean|variable] / the algorithm writes into the [database|array] / the code has a bug in the [syntax|recursion|loop] / a function calls the [database|server] with an integer
simile: like a [loop|function] in a script / like a variable in an array / as strict as [python|compiler] syntax / like a [boolean|integer] in a database / the way a programmer reads code
---
name: space and planets / outer space / planets
words: rocket planet astronaut orbit galaxy comet moon star telescope asteroid spaceship gravity mars jupiter saturn nebula satellite cosmic lunar spacesuit universe crater venus starlight
call: Rocket ready for [orbit|Mars|Saturn]! / Greetings from the [moon|galaxy|planet Mars], astronaut! / Look at that [comet|nebula] in the telescope! / The spaceship calls from orbit!
act: fly a [rocket|spaceship] to [Mars|Saturn|Jupiter|Venus] / point the telescope at the [moon|comet|nebula] / put on a spacesuit and leave the [planet|satellite] / orbit the [moon|planet] with the astronaut / map every [crater|asteroid] on the moon / float without gravity in the [spaceship|universe]
scene: the [rocket|satellite|spaceship] circles in orbit / an astronaut calls from the [moon|crater|spaceship] / the telescope finds a [comet|nebula|galaxy] / [Saturn|Jupiter|Mars] glows beyond the [asteroid|comet] / starlight falls on the lunar crater / gravity pulls the [asteroid|satellite] towards the planet / a cosmic [nebula|galaxy] turns around a star
simile: like a [comet|star] in the galaxy / like an astronaut [in orbit|on the moon|on Mars] / as far as [Saturn|Jupiter] in the universe / like [starlight|gravity] around a planet / the way a satellite stays in orbit
---
name: money and banks / money / banks
words: money bank coin dollar euro loan profit wallet savings budget invoice debt cash payment banker salary tax purse credit investor mortgage penny treasury
call: Count the [coins|dollars|cash] in the bank! / Open your [wallet|purse], the banker says! / Think of the [profit|savings|budget] in cash! / Every [dollar|euro|penny] goes to the bank!
act: put the [coins|dollars|savings] in the bank / ask the banker for a [loan|mortgage] / check the [budget|invoice] and the tax / pay the [debt|invoice|mortgage] in cash / save a [dollar|euro|penny] in the [purse|wallet] / turn the [salary|credit|loan] into profit
scene: the [banker|investor] counts the [coins|cash|money] / a [dollar|euro|penny] rolls out of the [wallet|purse] / the bank offers a [loan|mortgage|credit] / the [budget|invoice] shows a profit / the salary pays off the [debt|loan|tax] / the [savings|coins] grow in the bank / an investor moves money into the treasury
simile: like a [coin|penny] in a purse / like [money|cash] in the bank / as welcome as a [salary|payment] in the wallet / like [profit|credit] for an investor / the way a banker guards the [treasury|savings]
---
name: gardens and flowers / gardens / flowers
words: garden flower petal rose tulip daisy soil seed blossom gardener hedge lawn bloom lily greenhouse compost bouquet weed sprout daffodil spade orchid lavender
call: Smell the [roses|lilies|lavender] in the garden! / Welcome to the garden of [tulips|roses|orchids]! / Grab a spade, says the gardener! / See how the [tulips|roses|daffodils] bloom on the lawn!
act: plant a [tulip|rose|lily|daisy] in the soil / pull the [weeds|sprouts] out of the garden / pick a bouquet of [roses|daffodils|lavender] / trim the hedge around the [lawn|greenhouse] / spread compost over the [seeds|soil] / show the gardener each [petal|blossom|orchid]
scene: the [roses|tulips|daffodils] bloom along the hedge / a gardener waters the [lilies|seeds|orchids] / petals fall on the [lawn|soil] / a [daisy|sprout|seed] grows in the greenhouse / the garden smells of [lavender|blossoms|roses] / the gardener digs the soil with a spade / a bouquet of [lilies|tulips|orchids] stands by the lawn
simile: like a [rose|lily|tulip] in full bloom / like [seeds|sprouts] in the soil / as fresh as a [daisy|petal] on the lawn / like [lavender|blossoms] in a garden / the way a gardener loves an orchid
---
name: football and sport / football / sport
words: football goal referee team stadium coach goalkeeper striker penalty league tournament athlete score trophy halftime champion defender sport kickoff midfield dribble offside
call: Goal, shouts the [coach|referee|whole stadium]! / Come on, team, [score|dribble|kickoff is near]! / Penalty, says the referee! / Welcome to the [league|tournament], football friends!
act: cheer for the team in the stadium / score a goal against the goalkeeper / practise with the [coach|athlete|team] for the tournament / take the penalty before halftime / win the [league|trophy] with the [striker|defender|team] / dribble past the [defender|goalkeeper] in midfield
scene: the [striker|defender|athlete] runs towards the goal / the referee gives a penalty after [halftime|kickoff] / the [coach|goalkeeper] cheers in the stadium / the team lifts the trophy of the [league|tournament] / a champion scores for the team / the goalkeeper saves the [penalty|goal] / the striker is offside in the [tournament|stadium]
simile: like a [striker|champion] in the stadium / like a [penalty|goal] before halftime / as proud as a [team|coach] with a trophy / like a goalkeeper in a [football|league] final / the way a referee watches the [team|score]
---
name: doctors and medicine / medicine / hospitals
words: doctor nurse hospital medicine pill bandage fever clinic ambulance surgeon vaccine stethoscope pharmacy cough prescription symptom injection diagnosis headache surgery pulse pharmacist ointment dentist
call: Call the [doctor|nurse|ambulance], says the clinic! / The [doctor|nurse] will see you at the [clinic|hospital]! / Take your [pill|medicine], says the [nurse|pharmacist]! / Quick, a bandage for the [surgeon|nurse]!
act: ask the [doctor|dentist|nurse] for a [prescription|diagnosis] / fetch the [pill|ointment|medicine] from the pharmacy / check the pulse at the [clinic|hospital] / treat the [fever|cough|headache] with medicine / prepare the [vaccine|injection] for the surgeon / put a bandage and ointment on the knee
scene: the [doctor|nurse] checks the [pulse|fever] / the ambulance hurries to the [hospital|clinic] / a [surgeon|dentist] plans the [surgery|injection] / the pharmacist hands over the [pills|ointment|medicine] / the [cough|headache|symptom] fades after the injection / a stethoscope hangs in the [clinic|hospital|surgery] / the nurse changes the bandage in the hospital
simile: like [medicine|a pill] against a [cough|fever|headache] / like a [doctor|surgeon] with a stethoscope / as careful as a [nurse|dentist] with an injection / like a bandage from the [clinic|pharmacy] / the way a doctor reads a [symptom|prescription]
---
name: storms and weather / the weather / storms
words: storm thunder lightning rain cloud drizzle hail hurricane tornado fog wind forecast puddle gust mist rainbow sunshine barometer downpour weather rainy windy cloudy thunderstorm
call: Watch out for the [thunder|lightning|hail] and rain! / Here comes the [storm|thunderstorm|hurricane], says the forecast! / What windy weather! / A [rainbow|cloud] after the [rain|storm|downpour]!
act: listen to the [thunder|rain|wind] in the storm / check the forecast for [rain|fog|hail] / jump into a puddle after the [downpour|drizzle] / wait for the [rainbow|sunshine] behind the cloud / read the barometer before the [storm|hurricane] / walk through the [mist|fog|drizzle] in the wind
scene: the [thunder|lightning|storm] shakes the clouds / rain fills every puddle in the [wind|storm] / the [fog|mist] hides the [rainbow|sunshine] / a gust of wind drives the [clouds|drizzle|hail] / the forecast promises [rain|sunshine|a tornado] / the barometer falls before the [hurricane|downpour] / cloudy weather brings [drizzle|thunder|fog]
simile: like [lightning|thunder] in a storm / like a [cloud|gust] in the wind / as sudden as [hail|a downpour] in rainy weather / like [sunshine|a rainbow] after the [rain|fog] / the way [thunder|mist] fills the clouds
---
name: courts and the law / the law / law courts
words: judge court lawyer jury witness trial verdict law guilty innocent attorney prosecutor courtroom testimony oath gavel plaintiff statute bailiff lawsuit legal justice
call: Order in the [court|courtroom], says the judge! / The jury has a verdict! / Your honour, the [lawyer|attorney|prosecutor] calls a witness! / By the law of this court!
act: call a witness to the [trial|courtroom] / swear an oath before the [judge|jury|bailiff] / wait for the verdict of the [jury|court] / read the [statute|law] with the [lawyer|attorney] / question the [plaintiff|witness] for the jury / bring the lawsuit before the judge
scene: the [judge|bailiff] raises the gavel in court / the [lawyer|attorney|prosecutor] reads the testimony / the jury hears the [witness|plaintiff|lawyer] / the verdict is [guilty|innocent], says the [judge|court] / the witness takes an oath in the [trial|courtroom] / a legal statute decides the [lawsuit|trial] / the plaintiff asks the court for justice
simile: like a [verdict|gavel] in the courtroom / like a [witness|lawyer] under oath / as fair as a [judge|jury] at a trial / like testimony before the [court|judge] / the way the law treats a [witness|lawsuit]
---
name: detectives and crime / detectives / crime
words: detective clue mystery suspect alibi crime fingerprint inspector thief investigation footprint burglar culprit sleuth police evidence motive disguise criminal robbery handcuffs informer
call: A clue, says the [detective|inspector|sleuth]! / Stop, [thief|burglar], shouts the police! / The mystery deepens, says the [detective|inspector]! / Nobody move, there is evidence of a crime!
act: follow the [footprints|clues] of the [thief|burglar|suspect] / check the alibi of the [suspect|culprit] / dust the evidence for a fingerprint / help the [detective|inspector|police] with the mystery / find the motive for the [crime|robbery] / see through the disguise of the [burglar|criminal]
scene: the [detective|inspector|sleuth] studies a [clue|fingerprint|footprint] / the suspect has an alibi for the [crime|robbery] / the police put handcuffs on the [thief|culprit|burglar] / the investigation finds new evidence of a [crime|robbery] / a [criminal|burglar] leaves a [fingerprint|footprint|clue] / the informer tells the inspector about the motive / the mystery points to a [thief|suspect]
simile: like a [clue|fingerprint] at a robbery / like a [thief|burglar] in disguise / as curious as a [detective|sleuth] in an investigation / like evidence for the [police|inspector] / the way a sleuth follows a [clue|suspect]
---
name: painting and art / painting / art
words: paint painter painting canvas easel gallery portrait palette museum artist sculpture watercolour masterpiece mural exhibition studio fresco artwork pigment landscape sculptor paintbrush
call: Fetch the [canvas|palette|paintbrush], says the artist! / What a [masterpiece|portrait|mural] for the gallery! / Welcome to the [studio|exhibition], says the painter! / Art for the museum, a true masterpiece!
act: paint a [portrait|landscape|mural] on canvas / visit the [museum|gallery|exhibition] with an artist / mix the pigment on a palette / set up the easel in the studio / hang the [portrait|artwork|watercolour] in the gallery / admire the [sculpture|fresco] of the [sculptor|painter]
scene: the [painter|artist] stands at the easel / a [portrait|fresco|watercolour] hangs in the [museum|gallery] / the artist mixes pigment on the palette / a paintbrush glides over the canvas / the sculptor shows a [sculpture|masterpiece] at the exhibition / the [mural|landscape] fills the studio of the painter / the gallery buys the [artwork|portrait|painting] for its exhibition
simile: like a [portrait|masterpiece] in a [museum|gallery] / like pigment on a [palette|canvas] / as colourful as a [mural|fresco] by a painter / like a [watercolour|landscape] on an easel / the way an artist sees a [sculpture|canvas]
"""
