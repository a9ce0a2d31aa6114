from .confirmation import Confirmation as Confirmation
from .confirmation import Verdict as Verdict
from .effects import effects_table as effects_table
from .estimates import believe as believe
from .judge import judge as judge
from .selection import select as select
from .tables import front_table as front_table
from .tables import trials_table as trials_table
