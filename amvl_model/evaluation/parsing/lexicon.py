"""The words by which replies say, list, negate, doubt and retract: one table of phrases per concept, all languages.

Phrases stand between bars, one language after the other: English, German, French, Spanish, Portuguese, Italian, Dutch,
Russian, Chinese (simplified and traditional), Japanese, Korean. A phrase matches whole words in any case (in the last
three: characters). Of all phrases and option texts that begin at one word the longest counts; a phrase that stands in
two tables belongs to the first.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from amvl_model.evaluation.parsing.kinds import Kind
from amvl_model.evaluation.parsing.text import tokens

_LOOKING = """look|looks|compare|see|zoom|examine|count|consider|observe|check|inspect|analyze|analyse|recall|had to|have to|must
were to|were forced|am not mistaken|am right|remember correctly"""
_NOT_VERBS = "is are was were do does did would could should has have might must need ai"
_EXCLUDE = "eliminat exclud discard reject dismiss"
_CHOOSING = "choose|chose|pick|select|go with|say|answer|opt for|vote for|going with|guess it's"


def _product(*parts: str) -> str:
    """Every combination of one phrase of each part."""
    return "|".join(" ".join(words) for words in product(*(part.replace("\n", "|").split("|") for part in parts)))


PHRASES: dict[Kind, str] = {
    Kind.CANNOT: """
        cannot|can't|can not|could not|couldn't|unable to|not able to|impossible to|hard to|difficult to
        not possible to""",
    Kind.ANSWER: """
        answer|ans|solution|conclusion|response|prediction
        Antwort|Lösung|Ergebnis
        réponse|reponse|solution
        respuesta|solución
        resposta|gabarito|solução
        risposta|soluzione
        antwoord|oplossing
        ответ|ответом|решение
        答案|解答|正解
        答え|回答|解答|正解|答
        정답|답|답변""",
    Kind.CHOICE: """
        choice|option|selection|pick|guess
        Wahl|Auswahl|Option|Möglichkeit
        choix|l'option|l'image
        opción|opcion|elección
        opção|opcao|escolha|alternativa
        opzione|scelta
        keuze|optie
        вариант|вариантом|выбор|вариант ответа
        选项|選項|选择项
        選択肢|選択
        선택|보기""",
    Kind.LABEL: """
        letter|letters|options|choices|answers|statement|answer choice|answer option
        Buchstabe|Optionen|Antworten
        lettre|options|réponses|les options
        letra|opciones|respuestas|las opciones
        letra|opções|alternativas|respostas
        lettera|opzioni|risposte
        letter|opties|antwoorden
        буква|варианты|буквы|ответы""",
    Kind.MARK: """
        point|box|image|image|photo|figure|panel|region|object|circle|Punkt|Bild|imagen|imagem|immagine|图|圖""",
    Kind.NUMBERED: "fig|step|frame|question|schritt|frage|第",
    Kind.EACH: "each|every|any|any other|jede|jeder|chaque|cada|ogni|elke|каждый|每个|每個",
    Kind.COPULA: """
        is|was|be|being|been|seems|looks|appears|seem|look|appear|equals|seems to be|appears to be|looks to be
        ist|war|wäre|waere|sei|lautet|scheint|sein
        est|était|serait|sera|c'est|être|semble
        es|era|sería|seria|será|sea|fue|parece|ser|está|están|estaba
        é|seria|será|era|parece|ser|está|estão|estava
        è|sarebbe|sarà|era|essere|sembra|risulta
        is|was|zou zijn|lijkt|luidt|wordt
        это|является|будет|есть|был
        是|为|為|就是|应该是|應該是|应是|應是|应为|應為|应当是|應當是|便是|即
        は|が|こそ
        은|는|이|가""",
    Kind.PLURAL: """
        are|were|do|have|can|could|may
        sind|waren|können|koennen
        sont|étaient|peuvent
        son|eran|pueden
        são|eram|podem|estão
        sono|erano|possono|vanno
        zijn|waren|kunnen
        都|均|皆|也""",
    Kind.AUXILIARY: """
        would|should|must|will|could|may|might|can|has to|seems to|appears to|does|did|has
        würde|sollte|muss|kann|könnte|dürfte
        doit|devrait|peut|pourrait
        debe|debería|puede|podría|tiene que
        deve|deveria|pode|poderia
        deve|dovrebbe|può|potrebbe
        moet|zou|kan|zal
        должен|должно|должна|может|можно
        可以|可|应该|應該|应|應|被|能|会|會""",
    Kind.CHOOSE: _product("i|we", "|'d|'ll|would|will|must|'m|am", _CHOOSING)
    + """
        |let's go with|let us go with|going with|my vote goes to|go for
        ich wähle|ich waehle|wähle ich|ich nehme|ich entscheide mich für|ich tippe auf
        je choisis|je choisirais|je sélectionne|je prends|je dirais|j'opte pour|je réponds|je vote pour
        je pense que c'est
        elijo|escojo|selecciono|elegiría|me quedo con|yo diría|opto por|escogería
        escolho|eu escolho|seleciono|escolheria|eu diria|opto por|fico com|marco
        scelgo|sceglierei|seleziono|direi|opto per|io direi
        ik kies|ik zou zeggen|ik kies voor|kies ik|ik ga voor
        выбираю|я выбираю|выберу|я бы выбрал|я бы выбрала|я за
        选|選|选择|選擇|应选择|應選擇|改选|改選|改为|改為|改成|我选|我選|我选择|我選擇|故选|故選|应选|應選|应该选|應該選|应该选择|應該選擇|就选|就選|因此选|因此選|所以选|所以選""",
    Kind.SO: """
        so|therefore|thus|hence|consequently|in conclusion|finally|i think|i believe|i guess|i now think|i now believe
        i think that|i believe that
        we think|i'd say it's|i would say it's|it must be|so it must be|that leaves us with|accordingly|in summary
        overall|to conclude|∴
        daher|deshalb|folglich|somit|ich denke|ich glaube|es ist|das ist
        donc|ainsi|par conséquent|je pense que|je crois que|c'est donc|alors
        por lo tanto|por tanto|así que|entonces|creo que es|creo que|pienso que|es decir
        portanto|assim|então|acho que é|acho que|penso que
        quindi|perciò|pertanto|dunque|credo che sia|penso che sia|credo che|penso che
        dus|daarom|ik denk|ik denk dat het|ik geloof
        значит|поэтому|следовательно|таким образом|итак|я думаю|думаю|я считаю|по-моему
        因此|所以|故|应该是|應該是|由此可见|由此可見|综上|綜上|我认为|我認為|我觉得|我覺得|我认为是|我認為是|我觉得是|应当是
        したがって|よって|だから|なので
        따라서|그러므로|그래서|제 생각에는""",
    Kind.LEAVES: """
        leaves|leaving|leaves only|leaving only|leaves us with|leaving us with|we are left with|we're left with
        left with|what remains is
        es bleibt|bleibt nur|bleibt|übrig bleibt
        il reste|ne reste que|il ne reste que|reste|laissant
        queda|quedando|solo queda|sólo queda|nos queda|dejando
        resta|restando|sobra|só resta|deixando
        rimane|rimanendo|resta solo|lasciando
        blijft over|dan blijft|blijft|waardoor
        остаётся|остается|остался|остаётся только|остается только
        剩下|只剩|只剩下|剩下的是|剩余|剩餘|还剩|還剩""",
    Kind.REMAINS: """
        remains|is what remains|is what is left|is what's left|is the only one left|is the only one remaining
        is the remaining one
        bleibt übrig|ist übrig""",
    Kind.FILLER: """
        the|that|it|it's|its|that's|this|clearly|probably|likely|definitely|indeed|simply|just|actually the|obviously
        a|an|only|still|very|final|my|our|surely|certainly|really|exactly|correctly|i|we|to be
        no doubt|without doubt|without a doubt|undoubtedly|none other than|nothing but|of course|for sure|alone|all right
        right away|right now|right here|indeed the|in fact|to me|us|out|clear that|the only|therefore be|therefore
        thus
        der|die|das|den|dem|ein|eine|wohl|wahrscheinlich|eindeutig|sicher|vermutlich|finale|endgültige|meine|nur|es
        klar|offensichtlich
        le|la|les|l'|un|une|probablement|clairement|sûrement|finale|seulement|évidemment
        el|lo|los|las|una|probablemente|claramente|seguramente|sin duda|mi|solo|sólo|ella|final
        o|os|as|um|uma|provavelmente|claramente|com certeza|sem dúvida|minha|só|somente|final
        il|lo|gli|l'|uno|probabilmente|chiaramente|sicuramente|senza dubbio|la mia|solo|finale|sia
        het|een|waarschijnlijk|duidelijk|zeker|mijn|alleen|definitieve|uiteindelijke
        вероятно|скорее всего|очевидно|явно|точно|наверное|именно|конечно|мой|окончательный|только|тогда
        显然|顯然|很可能|最可能|一定|肯定|必然|最终|最終|其实是|的|该|該|最后|最後|这个|這個|我的|本题|本題|此题|此題|题|題|更|看起来|看起來|看来|看來|非常
        たぶん|おそらく|もちろん|の|最も|を
        분명히|최종""",
    Kind.MAYBE: """
        also|auch|ebenfalls|aussi|également|también|também|anche|ook|также|тоже
        maybe|perhaps|possibly|vielleicht|möglicherweise|peut-être|quizás|quizá|tal vez|talvez|forse|misschien
        может быть|возможно|可能|也许|也許|或许|或許|もしかすると|아마""",
    Kind.STANDS: """
        as|to|with|like|choose|chooses|select|selects|picks|match|matches|labeled|labelled|marked|named|called|fits|works
        corresponds to
        mit|wie|avec|comme|con|como|com|come|met""",
    Kind.AFFIRMS: """
        fits best|matches best|is best|is the best|is the best fit|is the best match|is a match|is my answer
        is my choice|is the one|wins
        c'est ça
        才对|才對|才是正确的|才是正確的|最合适|最合適|最符合
        を選びます|を選ぶ|を選択します|を選択|が正解|が正しい|が答え|で決まり|が適切
        를 선택|을 선택|가 정답|이 정답|가 맞|이 맞|를 고르|을 고르|가 답|가 옳|이 옳|를 택|을 택""",
    Kind.CORRECT: """
        correct|right answer|right choice|right option|right one|correct one|true|accurate|best choice|best option
        best match|best fit
        richtig|richtige|korrekt|korrekte|stimmt|zutreffend|wahr
        correct|correcte|corrects|exact|exacte|juste|vrai|vraie|bonne|bon|la bonne
        correcto|correcta|correctos|correctas|verdadero|verdadera|cierto|acertada
        correto|correta|certo|certa|verdadeiro|verdadeira
        corretto|corretta|giusto|giusta|esatto|esatta|vero|vera
        correct|correcte|juist|juiste|goed|goede|waar
        верно|верный|верная|верным|верен|верна|правильно|правильный|правильная|правильным|правильной|правильное|верное
        正确|正確|正确的|正確的|正确的选择|正確的選擇|正确选择|正確選擇|对的|對的|正确答案|正確答案|没错|沒錯|无误|無誤|合适|符合
        正しい|正しく|正解
        정답|맞|옳|맞습니다|정확|올바른""",
    Kind.RIGHT: """
        right|most likely|most probably|the most likely|best|most suitable|most appropriate|most plausible|beste
        meilleure|mejor|melhor|migliore|лучший|最佳|最好|对|對|对了|對了""",
    Kind.YES: "yes|yep|yeah|true|ja|oui|sí|sim|sì|да|是的|对|對|はい|네|예|✓|✔|✅|☑|√|✓correct",
    Kind.NO: "no|nope|nein|nee|нет|否|いいえ|아니요|✗|✘|❌|✕|❎|☒",
    Kind.WRONG: """
        wrong|incorrect|false|untrue|impossible|unlikely|implausible|inaccurate|incorrectly|mismatch|distractor
        falsch|falsche|inkorrekt|unmöglich|unwahrscheinlich|unzutreffend|raus|scheidet aus|scheiden aus
        faux|fausse|fausses|inexact|inexacte|impossible|erroné|erronée
        incorrecto|incorrecta|incorrectos|incorrectas|falso|falsa|falsos|falsas|imposible|errónea|erróneo|equivocada
        descartada|descartadas
        incorreto|incorreta|incorretos|incorretas|errado|errada|erradas|errados|impossível
        sbagliato|sbagliata|sbagliate|sbagliati|errato|errata|errate|errati|scorretto|scorretta|scorrette
        impossibile|false|falsi
        onjuist|onjuiste|fout|foute|verkeerd|onmogelijk|valt af|vallen af
        неверно|неверный|неверна|неверен|неверны|неправильно|неправильный|неправильны|неправильная|ошибочно
        ошибочный|исключается
        错|錯|错误|錯誤|错的|錯的|错误的|錯誤的|不对|不對|不正确|不正確|不成立|有误|有誤|不符|不符合|不合适|不合適|不可能
        間違い|間違って|不正解|誤り|違い|違う|違います
        틀렸|틀린|틀리|오답""",
    Kind.WAS_NOT: "ではない|ではありません|じゃない|ではなく|でなく|じゃなく|아닙니다|아니라|아니다|아니고|아니에요",
    Kind.NOT: """
        not|never|no longer|no more|neither|without|doubt|doubt that|hardly|nor is it|not really
        nicht|kein|keine|keinesfalls|weder|niemals
        pas|ni|jamais|aucune
        ni|tampoco|nunca
        não|nem|nunca
        non|né|mai
        niet|geen|nooit|noch
        не|ни|никогда
        非|不选|不選|不应选|不應選|不能选|不能選|不会选|不該選|不该选|不能|没有|並非|并非|不应|不應|不""",
    Kind.IS_NOT: "|".join(f"{word}n't" for word in _NOT_VERBS.split())
    + """|won't|isnt|doesnt|wont
        passt nicht|passen nicht|stimmt nicht
        n'est pas|ne sont pas|n'était pas|ne peut pas|ne peuvent pas|n'est|ce n'est pas|n'est ni
        no es|no son|no era|no puede|no pueden|no sería|no está|no la|no elijo|no elegiría|no creo que sea
        klopt niet|past niet
        не является|не являются|не может|не подходит|не подходят|это не
        不是|不为|不為|不是指|不应是|不應是|不可能是|不会是|不會是|并不是|並不是|也不是|都不是|不应该是|不應該是""",
    Kind.EXCLUDE: "|".join(
        stem + end for stem, end in product(_EXCLUDE.split(), ["e", "es", "ed", "ing", "ion of", "", "s"])
    )
    + """|rule out|rules out|ruled out|ruling out|rule|crossed out|cross out|crossing out|removing|remove|removed|omit
        out of the question
        ausgeschlossen|ausschließen|auszuschließen|schließe|schließen|scheidet|ausschluss von|entfällt|entfallen
        ausgenommen
        éliminer|élimine|éliminé|éliminée|éliminées|éliminons|éliminant|exclure|exclu|exclue|exclues|excluant
        on exclut|écarte|écarter|écartant
        descarto|descartar|descartamos|descarta|descartando|descartados|descartado|elimino|eliminar|eliminamos
        eliminando|excluyo|excluir|excluyendo
        descartadas|descartada|excluo|excluímos|excluindo|eliminadas|eliminada|excluídas|excluída|elimina|eliminado
        excluído
        escludo|escludere|escludiamo|escludendo|escluso|esclusa|escluse|esclusi|eliminare|eliminando|scarto|scartare
        scartando
        uitsluiten|uitgesloten|sluit|sluiten|elimineren|uitsluiting van|geëlimineerd
        исключаем|исключить|исключая|исключаю|исключены|исключён|исключен|исключив|отбрасываем|отпадает|отпадают
        排除|排除掉|去掉|剔除|淘汰|排除了|排除选项|排除選項
        除外|除く|排除|消去
        제외|배제""",
    Kind.EXCEPT: """
        except|except for|other than|anything but|everything but|all but|rather than|instead of|than|unlike|at least
        at most|up to
        compared to|compared with|apart from|aside from|excluding|more than|less than|opposed to|as opposed to
        over option
        außer|statt|anstatt|anstelle von|anders als|als|alles außer|verglichen mit
        sauf|excepté|plutôt que|au lieu de|à part|hormis|contrairement à|moins|tout sauf
        excepto|salvo|en vez de|en lugar de|menos|a excepción de|más que|a diferencia de|cualquiera menos
        exceto|em vez de|ao invés de|menos|do que|a não ser|salvo
        tranne|eccetto|invece di|piuttosto che|a parte|anziché|rispetto a
        behalve|in plaats van|anders dan|dan
        кроме|вместо|чем|помимо|за исключением
        除了|而不是|而非|除|除去|不同于|不同於
        以外""",
    Kind.AT_FIRST: """
        first thought|i first thought|i initially thought|initially|at first|at first glance|originally|i thought
        i had thought|first guess was|might have said|thought it was
        first i thought|at first i thought|my first thought was|my initial guess was|first considered|i considered
        i was going to say|previously
        zuerst dachte ich|anfangs|zunächst|ich dachte|erst dachte ich
        d'abord pensé|j'ai d'abord pensé|au début|je pensais|j'ai pensé|initialement
        primero pensé|al principio|pensé que era|pensaba que era|inicialmente|pensé
        primeiro pensei|no início|pensei que era|a princípio|inicialmente|pensei|pensava
        all'inizio|inizialmente|pensavo|prima pensavo|ho pensato
        eerst dacht ik|aanvankelijk|ik dacht|in het begin
        сначала|поначалу|я думал|сначала думал|думал
        起初|一开始|一開始|最初|原以为|原以為|我以为|我以為|开始以为|先以为
        最初は|はじめは|初めは
        처음에는|처음에""",
    Kind.AND: """
        and|but also|as well as|together with|along with|plus|through
        und|sowie|et|ed|en|и|和|与|與|及|跟|以及|と|와|과|및""",
    Kind.OR: "or|and/or|or else|versus|vs|vs.|oder|ou|или|либо|或|或者|还是|還是|または|もしくは|か|또는|혹은|bzw",
    Kind.NOR: "nor|noch|also nor|nor is",
    Kind.IF: """
        if|unless|suppose|supposing|assuming|provided|in case|only if|had it been|were it|otherwise|whenever|every time
        if so|if not|in the event|as long as|so long as|should it|should the|let us assume|let's assume|assume|imagine
        depending on
        wenn|falls|sofern|angenommen|wäre es
        s'il|s'ils|à condition que|à moins que|si c'était|si elle|si on
        si fuera|si fuese|a menos que|suponiendo|siempre que
        se fosse|se for|a menos que|supondo|caso fosse|caso seja|se fossem
        a meno che|supponendo|qualora|nel caso
        indien|tenzij|stel dat|mits|als het|als de|als dit
        если|если бы|при условии|допустим
        如果|若|假如|假设|假設|假若|要是|除非|倘若|的话|的話
        もし|なら|ならば|場合
        만약|만일|이라면|라면""",
    Kind.WHETHER: "whether|when|were|ob|wann|是否",
    Kind.BECAUSE: """
        because|since|as|due|as it|given|based
        weil|denn|da
        parce que|parce qu'|puisque
        porque|ya que|pues|dado que
        porque|pois|já que|uma vez que
        perché|poiché|dato che|in quanto
        omdat|aangezien
        потому что|потому|так как|поскольку|ведь
        因为|因為|由于|由於
        なぜなら|から|ため
        왜냐하면|때문""",
    Kind.BUT: "but|though|although|whereas|yet|sondern|aber|mais|sino|pero|ma|bensì|mas|maar|а|но|而是|但|但是|而|しかし|하지만",
    Kind.THEN: "then|dann|alors|luego|então|allora|dan|то|那么|那麼|则|則|就",
    Kind.WAIT: """
        wait|no wait|actually|correction|on second thought|on second thoughts|however|instead|scratch that
        strike that|i mean|let me reconsider
        let me rethink|let me correct|hmm|hm|oops|my mistake|on reflection|or rather|no sorry|sorry|i meant
        i was wrong|now it's|now it is|it's now|it is now|but now|edit|update|never mind|rather
        moment|halt|warte|nein halt|eigentlich|korrektur|doch nicht|besser gesagt|vielmehr
        attends|attendez|en fait|non attends|plutôt|correction|pardon|à la réflexion
        espera|en realidad|corrección|mejor dicho|perdón|no espera|de hecho
        espere|na verdade|aliás|correção|melhor dizendo|não espera|pensando bem
        aspetta|anzi|in realtà|correzione|no aspetta|ripensandoci|meglio
        wacht|nee wacht|eigenlijk|correctie|bij nader inzien|sorry
        подождите|подожди|стоп|вернее|точнее|на самом деле|нет подождите|погодите|хотя
        等等|等一下|不对等等|更正|其实|其實|实际上|實際上|不,|不对,|不對,|纠正|糾正|再想想|修正
        待って|いや|やはり|訂正|実は
        잠깐|아니|사실은|정정""",
    Kind.REFUSAL: """
        i'm sorry|i am sorry|sorry,|i apologize|i apologise|don't know|do not know|not sure|not certain|not clear
        as an ai|no idea|unsure
        insufficient|unclear|not enough|no way to|can't say|indeterminate|undetermined|none of the above
        weiß nicht|weiß es nicht|keine ahnung|leider|unklar|nicht sicher|tut mir leid|nicht möglich
        ne sais pas|je ne peux pas|désolé|pas sûr|aucune idée|impossible de
        no sé|no lo sé|lo siento|no puedo|no estoy seguro|imposible de|no se puede determinar
        não sei|desculpe|não consigo|não tenho certeza|impossível
        non so|non lo so|mi dispiace|non posso|non sono sicuro|impossibile
        weet niet|weet het niet|helaas|niet zeker|geen idee
        не знаю|не могу|невозможно|извините|к сожалению|не уверен|неясно
        无法|無法|不知道|抱歉|不确定|不確定|不能确定|不能確定|对不起|對不起|难以|難以|不清楚
        わかりません|分かりません|わからない|申し訳
        모르|알 수 없|죄송""",
    Kind.TELL: """
        determine|determined|tell|answer|say|see|assist|help|provide|identify|decide|choose|judge|view|conclude""",
    Kind.SOME: "both|neither|none|either|all",
    Kind.LOOK: """
        look at|looks at|looked at|looking at|consider|considers|considered|considering|examine|examines|examining
        examined|inspect|inspecting
        analyze|analyse|analyzing|analysing|analyzed|analysed|focus on|focusing on|focused on|betrachten|regardons
        considérons|consideremos|看
        considere|consideriamo|analizziamo|bekijken|рассмотрим|观察|觀察|考虑|考慮""",
    Kind.PLACE: """
        at|of|in|on|near|from|by|between|around|behind|before|after|under|above|below|toward|towards|about|for
        bei|von|auf|neben|zwischen|vor|hinter|zu|entre|sur|dans|sous|de|del|en|sobre|em|na|di|del|su|tra|fra|op|van
        tussen|у|на|в|между|在|比""",
    Kind.THERE_IS: "there is|there are|there was|there were|there is only|there is just|there is exactly|there's",
    Kind.SUFFIX: "选项|選項|项|項|番|번",
    Kind.TAIL: "です|だ|でしょう|である|だと思います|と思います|입니다|이다|예요|이에요|라고 생각합니다|了|吧|啊|呢|哦",
    Kind.WORD: """
        si tratta|se trata|si vede|se ve|se vê|se puede|si può|se pode|no other|no one|even if|not only|not just|mr.|mrs.
        ms.|dr.
        not the only|wait for|all of|a lot|no matter|right side|比较|比較|对于|對於|对比|對比|dan is het|dan kies"""
    + "|"
    + _product("if", "you|we|one|i", _LOOKING)
    + "|if anything|if forced|if needed|if any|as if|look closely|looking closely|what if",
}

NUMBER_WORDS: tuple[str, ...] = (
    *"zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split(),
    *"seventeen eighteen nineteen twenty".split(),
)
WEAK_TEXTS = frozenset({"no", "none", "both", "neither", "all", "either"})
"""Option texts that are common words: read only where a stop follows."""

ARTICLES = frozenset(
    "the a an der die das ein eine le la les un une el los las il lo gli uno o os as um uma het de een".split()
)
TOO = frozenset("also too well auch ebenfalls aussi également también também anche ook также тоже 也 亦 も 도".split())
"""Words by which a second option is called right beside a first one."""
CONCESSIONS = frozenset("though although".split())
"""Words for "but" behind which what is said stays true."""
PRONOUNS = frozenset("it it's that that's this the i we".split())
MODALS = frozenset("may might could can".split())
LINKING_LETTERS: dict[str, Kind] = {"e": Kind.AND, "y": Kind.AND, "o": Kind.OR, "u": Kind.OR}
"""One-letter words for "and" and "or", where they stand between two options."""

LINKING_WORDS: dict[str, Kind] = {
    "of": Kind.OR,
    "to": Kind.AND,
    "through": Kind.AND,
    "bis": Kind.AND,
    "ni": Kind.NOR,
    "né": Kind.NOR,
}
LINKING_WORDS |= {"nem": Kind.NOR, "ни": Kind.NOR, "noch": Kind.NOR}
"""Words that join two options only where they stand between two."""

CLAUSE_CONDITIONS: dict[str, Kind] = dict.fromkeys(["si", "se", "caso"], Kind.IF)
"""Words for "if" that mean something else inside a clause."""


def phrase_tree(phrases: dict[Kind, str]) -> dict[str, Any]:
    """All phrases as a tree of words; the empty word of a node gives the kind of the phrase that ends there."""
    root: dict[str, Any] = {}
    for kind, table in phrases.items():
        for phrase in table.replace("\n", "|").split("|"):
            node = root
            for token in tokens(phrase):
                node = node.setdefault(token.text, {})
            if node is not root:
                node.setdefault("", kind)
    return root
